//! A record and its removal in one run of a program, for kernels that cannot do both in one call
//! (before 5.14). Between two calls the agent can be off its CPU for long, and what is counted
//! meanwhile would be gone; a program is not interrupted by one that counts.

use aya_ebpf::programs::TcContext;
use nodescope_ebpf::{HopKey, HopRecord, packet::Frame as _, taking};

use crate::{frame::Bytes, maps::HOPS};

/// Takes out the record whose key the frame has, and writes it into the frame.
#[inline(always)]
pub fn take(ctx: &TcContext) -> Option<()> {
    let key: HopKey = Bytes::of(ctx).read(taking::KEY)?;
    let place = HOPS.get_ptr(&key)?;
    // SAFETY: the element stays where it is for this run. Another CPU may still add to it, or
    // take its memory for another record: then it has another first time.
    unsafe {
        let before: HopRecord = place.read_volatile();
        HOPS.remove(&key).ok()?;
        let after: HopRecord = place.read_volatile();
        let last = if after.first_ns == before.first_ns {
            &after
        } else {
            &before
        };
        ctx.skb.store(taking::RECORD, last, 0).ok()
    }
}
