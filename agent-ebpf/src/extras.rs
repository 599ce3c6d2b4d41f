//! Entries of the `EXTRA` map: made when there is something to say, and then kept up to date.

use aya_ebpf::{bindings::BPF_NOEXIST, programs::TcContext};
use core::arch::asm;
use nodescope_ebpf::{
    EventKind, HopKey, HopRecord,
    extra::{Extra, TAG},
    packet::{Start, is_tunnel, protocol, tunnel},
};

use crate::{
    careful::{copy, either},
    frame::Copied,
    hops::{Skb, atomic_add},
    maps::{BLANK, EXTRA, LOST, RARE},
    rare,
};

/// Something that happened to a conversation.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum Note {
    /// A later fragment.
    Fragment = 0,
    /// A window of 0.
    ZeroWindow = 1,
    /// A TCP port is used anew: what was counted belongs to the connection before.
    Anew = 2,
}

/// The entry of a conversation, made if need be; a full map is counted.
#[inline(always)]
fn entry(key: &HopKey) -> Option<*mut Extra> {
    if let Some(extra) = EXTRA.get_ptr_mut(key) {
        return Some(extra);
    }
    let blank = BLANK.get_ptr(0)?;
    // Another CPU may have been first, which is as good.
    // SAFETY: this CPU's element of a per-CPU array that nothing writes to.
    let _ = EXTRA.insert(key, unsafe { &*blank }, u64::from(BPF_NOEXIST));
    let extra = EXTRA.get_ptr_mut(key);
    if extra.is_none()
        && let Some(lost) = LOST.get_ptr_mut(EventKind::Extra as u32)
    {
        // SAFETY: the pointer is this CPU's element of a per-CPU array, valid for this run.
        unsafe { *lost += 1 };
    }
    extra
}

/// Says in the record that its entry has changed.
///
/// # Safety
///
/// `record` points into the map.
#[inline(always)]
unsafe fn changed(record: *mut HopRecord) {
    // SAFETY: the caller's promise, and the field is aligned to 4; nothing but the addition
    // happens. (See `atomic_add` for why by this instruction.)
    unsafe {
        let counter = &raw mut (*record).extra;
        asm!("lock *(u32 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64);
    }
}

/// Keeps count of something.
///
/// # Safety
///
/// `record` points into the map.
#[inline(never)]
pub unsafe fn note(key: &HopKey, record: *mut HopRecord, note: u32, forward: u32) {
    let Some(extra) = entry(key) else {
        return;
    };
    // SAFETY: the entry comes from the map, whose elements stay valid for this run; the record is
    // the caller's promise.
    unsafe {
        if note == Note::Anew as u32 {
            (*extra).errors = Default::default();
            (*extra).fragments = [0; 2];
            (*extra).zero_windows = [0; 2];
        } else {
            let [fragments, zero_windows] =
                [&raw mut (*extra).fragments, &raw mut (*extra).zero_windows];
            let counter: *mut u64 = if note == Note::Fragment as u32 {
                either!(
                    forward != 0,
                    &raw mut (*fragments)[0],
                    &raw mut (*fragments)[1]
                )
            } else {
                either!(
                    forward != 0,
                    &raw mut (*zero_windows)[0],
                    &raw mut (*zero_windows)[1]
                )
            };
            atomic_add(counter, 1);
        }
        changed(record);
    }
}

/// Keeps count of an ICMP error about a conversation; the packet is the one in [`RARE`].
///
/// # Safety
///
/// `record` points into the map.
#[inline(never)]
pub unsafe fn error(ctx: &TcContext, record: *mut HopRecord, forward: u32) {
    let Some(rare) = RARE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: as in `note`; `rare` is this CPU's, and nothing else writes there meanwhile.
    unsafe {
        let Some(extra) = entry(&(*rare).key) else {
            return;
        };
        let counter = either!(
            forward != 0,
            &raw mut (*extra).errors[0],
            &raw mut (*extra).errors[1]
        );
        atomic_add(&raw mut (*counter).packets, 1);
        atomic_add(&raw mut (*counter).bytes, u64::from(Skb::of(ctx).length));
        copy(
            &raw mut (*extra).error_from,
            &raw const (*rare).whole.packet.source,
        );
        (*extra).error_type = (*rare).whole.icmp_type;
        (*extra).error_code = (*rare).whole.icmp_code;
        changed(record);
    }
}

/// Says of a new record what its first packet carries, the one in [`RARE`]: tags, and a tunnel's
/// inner packet.
///
/// # Safety
///
/// `record` points into the map.
#[inline(never)]
pub unsafe fn describe(ctx: &TcContext, record: *mut HopRecord) {
    let (Some(outer), Some(inner)) = (RARE.get_ptr_mut(0), RARE.get_ptr_mut(1)) else {
        return;
    };
    // SAFETY: as in `error`; the record is the caller's promise.
    unsafe {
        let Some(extra) = entry(&(*outer).key) else {
            return;
        };
        let outer = &raw const (*outer).whole;
        let skb = ctx.skb.skb;
        // The outer tag may be in the frame no more, or not yet.
        let apart = (*skb).vlan_present != 0;
        let tags = &raw const (*outer).tags;
        let last = *either!(apart, &raw const (*tags)[0], &raw const (*tags)[1]);
        let first = if apart {
            TAG | (*skb).vlan_tci as u16 & 0x0fff
        } else {
            (*tags)[0]
        };
        (*extra).tags = [first, last];
        let port = (*outer).packet.destination_port;
        if (*outer).packet.protocol == protocol::UDP
            && is_tunnel(port)
            && let Some(tunnel) = tunnel(&Copied(ctx), (*outer).transport as usize, port)
        {
            (*extra).encapsulation = tunnel.kind as u8;
            (*extra).network = tunnel.network;
            let start = match tunnel.start {
                Start::Ethernet => 0,
                Start::Network(ether) => u32::from(ether),
            };
            if rare::read(ctx, 1, tunnel.at as u32, start) == 0 {
                let inner = &raw const (*inner).whole.packet;
                copy(&raw mut (*extra).inner.source, &raw const (*inner).source);
                copy(
                    &raw mut (*extra).inner.destination,
                    &raw const (*inner).destination,
                );
                (*extra).inner.source_port = (*inner).source_port;
                (*extra).inner.destination_port = (*inner).destination_port;
                (*extra).inner_protocol = (*inner).protocol;
            }
        }
        changed(record);
    }
}
