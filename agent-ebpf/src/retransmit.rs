//! TCP segments that sockets of this machine send again, in whatever network namespace: told by
//! the kernel's own tracepoints, as many as it counts in `TcpRetransSegs`.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_probe_read_kernel};
use nodescope_ebpf::{Address, EventKind, NatTuple, mapped};

use crate::{
    hops::atomic_add,
    maps::{LOST, RETRANSMITS, SOCKET},
};

/// Address families (uapi linux/socket.h).
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Segments of a socket.
#[inline(always)]
pub fn segment(socket: u64, skb: u64) {
    let offsets = SOCKET.load();
    // A buffer holds several segments where offload cuts it up later.
    let segments: u16 = read(skb + u64::from(offsets.segments)).unwrap_or(1);
    count(socket, u64::from(segments.max(1)));
}

/// A SYN+ACK; the request begins with the same `struct sock_common` as a socket.
#[inline(always)]
pub fn synack(request: u64) {
    count(request, 1);
}

/// Reads from the kernel's memory; `None` on a fault.
#[inline(always)]
fn read<T: Copy + Default>(from: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper writes all of the value, plain numbers here, and zeroes on a fault.
    let failed = unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            from as *const _,
        )
    };
    (failed == 0).then_some(value)
}

#[inline(never)]
fn count(socket: u64, segments: u64) -> u32 {
    let Some(tuple) = tuple(socket) else {
        return 0;
    };
    if RETRANSMITS.get_ptr_mut(&tuple).is_none() {
        // Another CPU may have been first, which is as good.
        let _ = RETRANSMITS.insert(&tuple, 0, u64::from(BPF_NOEXIST));
    }
    if let Some(counter) = RETRANSMITS.get_ptr_mut(&tuple) {
        // SAFETY: the counter comes from the map, whose elements stay valid for this run.
        unsafe { atomic_add(counter, segments) };
    } else if let Some(lost) = LOST.get_ptr_mut(EventKind::Retransmit as u32) {
        // SAFETY: the pointer is this CPU's element of a per-CPU array, valid for this run.
        unsafe { *lost += segments };
    }
    1
}

/// The socket's own tuple: its address first.
#[inline(always)]
fn tuple(socket: u64) -> Option<NatTuple> {
    let offsets = SOCKET.load();
    let at = |offset: u32| socket + u64::from(offset);
    let (source, destination): (Address, Address) = match read(at(offsets.family))? {
        AF_INET => {
            let source: u32 = read(at(offsets.source))?;
            let destination: u32 = read(at(offsets.destination))?;
            (
                mapped(source.to_ne_bytes()),
                mapped(destination.to_ne_bytes()),
            )
        }
        AF_INET6 if offsets.source6 != 0 => {
            (read(at(offsets.source6))?, read(at(offsets.destination6))?)
        }
        _ => return None,
    };
    Some(NatTuple {
        source,
        destination,
        source_port: read(at(offsets.source_port))?,
        destination_port: u16::from_be(read(at(offsets.destination_port))?),
    })
}
