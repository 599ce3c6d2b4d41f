//! Counting packets that the kernel gave up, from the tracepoint `skb:kfree_skb`.
//!
//! The packet may have died anywhere, so nothing but its `sk_buff` is there to go by, read with
//! the checking helper by offsets from the kernel's own types. Losses in the agent's network
//! namespace count, and those in the namespace behind a veth of it: a pod's.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use core::mem::MaybeUninit;
use network_types::eth::EthHdr;
use nodescope_ebpf::{
    drop::{DropKey, DropOffsets, Ignored, UNPLACED_REASONS},
    packet::{Echo, Frame, Start, Whole, whole},
};

use crate::{
    hops::atomic_add,
    maps::{
        DROP_EVENTS, DROP_NETNS, DROP_OFFSETS, DROP_ROOM, DROPS, DROPS_IGNORED, DROPS_UNPLACED,
        DropRoom,
    },
};

/// Kernels from 5.17 on say why.
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn drop_reason(ctx: RawTracePointContext) -> i32 {
    // TP_PROTO(skb, location, reason, …), checked against the kernel's types before the load.
    account(
        argument(&ctx, 0),
        argument(&ctx, 1),
        argument(&ctx, 2) as u32,
    );
    0
}

/// The same for kernels that do not.
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn drop_plain(ctx: RawTracePointContext) -> i32 {
    account(argument(&ctx, 0), argument(&ctx, 1), 0);
    0
}

#[inline(always)]
fn argument(ctx: &RawTracePointContext, index: usize) -> u64 {
    use aya_ebpf::EbpfContext as _;
    // SAFETY: the context of a raw tracepoint is an array of its arguments, a word each
    // (uapi linux/bpf.h, `struct bpf_raw_tracepoint_args`).
    unsafe { *ctx.as_ptr().cast::<u64>().add(index) }
}

/// Reads from the kernel's memory; the zero value on a fault.
#[inline(always)]
fn read<T: Copy>(from: u64) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes all of the value, zeroes on a fault; every T here is a plain
    // number or an array of them.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            from as *const _,
        );
        value.assume_init()
    }
}

#[inline(always)]
fn at(base: u64, offset: u32) -> u64 {
    base + u64::from(offset)
}

/// `SOCK_DEAD`, the first of `enum sock_flags` (include/net/sock.h).
const SOCK_DEAD: u64 = 1;
/// States of sockets that are no full ones, and have other things where the flags are
/// (include/net/tcp_states.h).
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;
/// Namespaces have inode numbers from here on (include/linux/proc_ns.h); anything less means
/// that the memory read is not what it was taken for.
const FIRST_INODE: u32 = 0xe000_0000;

#[inline(always)]
fn account(skb: u64, location: u64, reason: u32) {
    let Some(first) = DROP_ROOM.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's element; who interrupts leaves the depth as it was.
    unsafe {
        let depth = (*first).depth;
        (*first).depth = depth + 1;
        if let Some(room) = DROP_ROOM.get_ptr_mut(depth) {
            tell(skb, location, reason, &mut *room);
        }
        (*first).depth = depth;
    }
}

/// As [`account`]; what is large is in `room`, for the stack has none.
#[inline(always)]
fn tell(skb: u64, location: u64, reason: u32, room: &mut DropRoom) {
    let offsets = DROP_OFFSETS.load();
    if reason == offsets.consumed || reason == offsets.not_dropped {
        ignore(Ignored::Consumed);
        return;
    }
    let key = &mut room.key;
    *key = DropKey {
        reason,
        ..DropKey::default()
    };
    let sock: u64 = read(at(skb, offsets.skb_sk));
    let vague = reason == offsets.unspecified || reason == offsets.purged;
    if vague && is_dead(sock, &offsets) {
        ignore(Ignored::Teardown);
        return;
    }
    let Some((segments, length, echo)) = describe(skb, &offsets, key, &mut room.whole) else {
        ignore(Ignored::NotIp);
        return;
    };
    if reason == offsets.no_socket && echo == Echo::Reply {
        ignore(Ignored::EchoReply);
        return;
    }
    let Some(device) = place(skb, sock, &offsets, key) else {
        ignore(Ignored::Elsewhere);
        return;
    };
    count(
        room,
        location,
        at(device, offsets.dev_name),
        segments,
        length,
    );
}

#[inline(always)]
fn is_dead(sock: u64, offsets: &DropOffsets) -> bool {
    if sock == 0 {
        return false;
    }
    let state: u8 = read(at(sock, offsets.sock_state));
    let flags: u64 = read(at(sock, offsets.sock_flags));
    state != TIME_WAIT && state != NEW_SYN_RECV && flags & SOCK_DEAD != 0
}

/// The packet's tuple, into the key; gives the number of packets on the wire, bytes, and whether
/// it is an echo.
#[inline(always)]
fn describe(
    skb: u64,
    offsets: &DropOffsets,
    key: &mut DropKey,
    found: &mut Whole,
) -> Option<(u32, u32, Echo)> {
    let head: u64 = read(at(skb, offsets.skb_head));
    let data: u64 = read(at(skb, offsets.skb_data));
    let length: u32 = read(at(skb, offsets.skb_len));
    let paged: u32 = read(at(skb, offsets.skb_data_len));
    let network: u16 = read(at(skb, offsets.skb_network));
    let network = head + u64::from(network);
    // The kernel moves `data` along as it reads headers; the packet starts where it started.
    let consumed = data.wrapping_sub(network) as u32;
    let length = length.wrapping_add(consumed);
    let end: u32 = read(at(skb, offsets.skb_end));
    let segments: u16 = read(at(head + u64::from(end), offsets.gso_segs));
    let segments = u32::from(segments).max(1);
    let packet = Packet {
        network,
        linear: u64::from(length.wrapping_sub(paged)),
    };
    let kind: u16 = read(at(skb, offsets.skb_protocol));
    let start = Start::Network(u16::from_be(kind));
    whole(&packet, 0, start, length as usize, segments > 1, found).ok()?;
    let place = &found.packet;
    key.source = place.source;
    key.destination = place.destination;
    key.source_port = place.source_port;
    key.destination_port = place.destination_port;
    key.protocol = place.protocol;
    key.kind = place.kind as u8;
    let length = length.wrapping_add(EthHdr::LEN as u32);
    Some((segments, length, place.echo))
}

/// The bytes of a packet from its IP header on.
struct Packet {
    /// Address of the IP header.
    network: u64,
    /// Bytes from there on that are in one piece.
    linear: u64,
}

impl Frame for Packet {
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the value is what the pointer points to; it is given out only if it was read.
        unsafe {
            self.read_to(at, &mut *value.as_mut_ptr())?;
            Some(value.assume_init())
        }
    }

    #[inline(always)]
    fn read_to<T: Copy>(&self, at: usize, to: &mut T) -> Option<()> {
        if at as u64 + size_of::<T>() as u64 > self.linear {
            return None;
        }
        // SAFETY: the helper writes all of the value or fails, and T is a plain header of bytes.
        let failed = unsafe {
            bpf_probe_read_kernel(
                core::ptr::from_mut(to).cast(),
                size_of::<T>() as u32,
                (self.network + at as u64) as *const _,
            )
        };
        (failed == 0).then_some(())
    }
}

/// Namespace, interface and direction, into the key; gives the address of the interface, or
/// `None` when it happened where it is none of the agent's business.
#[inline(always)]
fn place(skb: u64, sock: u64, offsets: &DropOffsets, key: &mut DropKey) -> Option<u64> {
    /// The low bit of `_skb_refdst` says that no reference was taken (`SKB_DST_NOREF`).
    const NOREF: u64 = 1;

    let mut device: u64 = read(at(skb, offsets.skb_dev));
    let mut netns = namespace(device, offsets);
    if netns == 0 {
        // On its way out a packet has a route before it has an interface. And queues of sockets
        // keep other things where the interface was.
        let route: u64 = read(at(skb, offsets.skb_dst));
        device = read(at(route & !NOREF, offsets.dst_dev));
        netns = namespace(device, offsets);
    }
    if netns == 0 {
        device = 0;
        netns = inode(read(at(sock, offsets.sock_net)), offsets);
    }
    key.netns = netns;
    let mut from: u32 = read(at(skb, offsets.skb_iif));
    if device == 0 {
        from = 1;
    } else {
        key.ifindex = read(at(device, offsets.dev_ifindex));
    }
    key.egress = u8::from(from != key.ifindex);
    if netns == offsets.netns {
        return Some(device);
    }
    key.host_ifindex = host_side(device, netns, offsets)?;
    Some(device)
}

/// Inode number of an interface's namespace; 0 when this is no interface.
#[inline(always)]
fn namespace(device: u64, offsets: &DropOffsets) -> u32 {
    if device == 0 {
        return 0;
    }
    inode(read(at(device, offsets.dev_net)), offsets)
}

#[inline(always)]
fn inode(net: u64, offsets: &DropOffsets) -> u32 {
    if net == 0 {
        return 0;
    }
    let number: u32 = read(at(net, offsets.net_inum));
    if number < FIRST_INODE { 0 } else { number }
}

/// Index of the veth in the agent's namespace that leads into another one.
#[inline(always)]
fn host_side(device: u64, netns: u32, offsets: &DropOffsets) -> Option<u32> {
    if device != 0 {
        let kind: u64 = read(at(device, offsets.dev_link_ops));
        let kind: [u8; 5] = read(read(at(kind, offsets.ops_kind)));
        if kind == *b"veth\0" {
            let peer: u64 = read(at(device, offsets.dev_private));
            if namespace(peer, offsets) == offsets.netns {
                let index: u32 = read(at(peer, offsets.dev_ifindex));
                // Full: the loopback of one more pod stays unknown.
                let _ = DROP_NETNS.insert(&netns, &index, 0);
                return Some(index);
            }
        }
    }
    // SAFETY: the value is an integer that is read once.
    unsafe { DROP_NETNS.get(&netns).copied() }
}

/// Adds to the record of this kind of loss.
#[inline(never)]
fn count(room: &mut DropRoom, location: u64, name: u64, segments: u32, length: u32) {
    let DropRoom { key, fresh, .. } = room;
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut record = DROPS.get_ptr_mut(&*key);
    if record.is_none() {
        fresh.packets = 0;
        fresh.bytes = 0;
        fresh.first_ns = now;
        fresh.last_ns = now;
        fresh.location = location;
        fresh.interface = if key.ifindex == 0 {
            [0; 16]
        } else {
            read(name)
        };
        // A failure is a full table, or another CPU that was first and woke the agent.
        if DROPS.insert(&*key, &*fresh, u64::from(BPF_NOEXIST)).is_ok() {
            // A full ring has woken the agent already.
            let _ = DROP_EVENTS.output::<u64>(now, 0);
        }
        record = DROPS.get_ptr_mut(&*key);
    }
    // SAFETY: elements of maps stay valid for this run; sums are atomic, and of two times that
    // two CPUs write either is as good; the arrays are per CPU.
    unsafe {
        if let Some(record) = record {
            atomic_add(&raw mut (*record).packets, u64::from(segments));
            atomic_add(&raw mut (*record).bytes, u64::from(length));
            (*record).last_ns = now;
        } else if let Some(counter) =
            DROPS_UNPLACED.get_ptr_mut(key.reason.min(UNPLACED_REASONS - 1))
        {
            (*counter).packets += u64::from(segments);
            (*counter).bytes += u64::from(length);
        }
    }
}

#[inline(always)]
fn ignore(why: Ignored) {
    if let Some(counter) = DROPS_IGNORED.get_ptr_mut(why as u32) {
        // SAFETY: this CPU's element of a per-CPU array.
        unsafe { *counter += 1 };
    }
}
