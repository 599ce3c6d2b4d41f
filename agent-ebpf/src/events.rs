//! Word to the agent that a record is worth a look now. A full ring is counted and never waits.

use nodescope_ebpf::{EventKind, HopKey, OpenEvent};

use crate::maps::{EVENTS, LOST};

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
