//! Segments beyond the first of offloaded packets: one slot a hook, found without a hash, because
//! bulk traffic is made of such packets.

use aya_ebpf::programs::TcContext;
use nodescope_ebpf::{Reason, slots};

use crate::{
    hops::{hook, unattributed},
    maps::OFFLOAD,
};

/// Counts what a record counts and the interface does not.
#[inline(always)]
pub fn add(ctx: &TcContext, ifindex: u32, egress: bool, segments: u32) {
    let owner = slots::owner(ifindex, egress);
    if let Some(slot) = OFFLOAD.get_ptr_mut(slots::of(owner)) {
        // SAFETY: this CPU's element of a per-CPU array, which nothing else writes meanwhile.
        unsafe {
            if (*slot).owner == owner {
                (*slot).segments += u64::from(segments);
                return;
            }
            if (*slot).owner == 0 {
                (*slot).owner = owner;
                (*slot).segments = u64::from(segments);
                return;
            }
        }
    }
    // Another hook has the slot.
    unattributed(ctx, hook(ifindex, egress, Reason::Offload), segments, 0);
}
