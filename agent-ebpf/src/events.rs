//! Word to the agent that a record is worth a look now. A full ring is counted and never waits.

use nodescope_ebpf::{EventKind, HopKey, OpenEvent};

use crate::maps::{EVENTS, LOST};

/// Tells of a record.
#[inline(always)]
pub fn tell(key: &HopKey, kind: EventKind) {
    let event = OpenEvent {
        key: *key,
        kind: kind as u32,
    };
    if EVENTS.output::<OpenEvent>(event, 0).is_err()
        && let Some(lost) = LOST.get_ptr_mut(kind as u32)
    {
        // SAFETY: the pointer is this CPU's element of a per-CPU array, valid for this run.
        unsafe { *lost += 1 };
    }
}
