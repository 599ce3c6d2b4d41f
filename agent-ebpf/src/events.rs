//! Word to the agent that a record is worth a look now. A full ring is counted and never waits.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use nodescope_ebpf::{EventKind, HopKey, HopRecord, OpenEvent};

use crate::careful::copy;
use crate::maps::{CHANGED, EVENTS, LOST, MISSED, round};

/// Tells of a record. The event is written where it goes: a copy on the stack, beneath the
/// callers' own, is more than kernels up to 5.10 allow.
#[inline(always)]
pub fn tell(key: &HopKey, kind: EventKind) {
    if let Some(mut entry) = EVENTS.reserve::<OpenEvent>(0) {
        let event = entry.as_mut_ptr();
        // SAFETY: the entry is as large as an OpenEvent, whose every field is written.
        unsafe {
            (*event).key = *key;
            (*event).kind = kind as u32;
        }
        entry.submit(0);
    } else if let Some(lost) = LOST.get_ptr_mut(kind as u32) {
        // SAFETY: the pointer is this CPU's element of a per-CPU array, valid for this run.
        unsafe { *lost += 1 };
    }
}

/// Tells that a record has changed, unless that was told in this round already. After all changes.
///
/// # Safety
///
/// `record` points into the map.
#[inline(always)]
pub unsafe fn changed(key: &HopKey, record: *mut HopRecord) {
    let round = round();
    // SAFETY: the caller's promise.
    if u32::from(unsafe { (*record).told }) != round {
        // SAFETY: the same.
        unsafe { tell_changed(key, record, round) };
    }
}

/// # Safety
///
/// `record` points into the map.
#[inline(never)]
unsafe fn tell_changed(key: &HopKey, record: *mut HopRecord, round: u32) {
    // Another CPU may do the same now: then the agent looks twice.
    // SAFETY: the caller's promise.
    unsafe { (*record).told = round as u8 };
    if let Some(mut entry) = CHANGED.reserve::<HopKey>(0) {
        // SAFETY: the entry is as large as a key.
        unsafe { copy(entry.as_mut_ptr(), key) };
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    } else if let Some(missed) = MISSED.get_ptr_mut(0) {
        // SAFETY: the map's element, a word that is written as a whole.
        unsafe { *missed = round };
    }
}
