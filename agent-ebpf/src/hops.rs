//! Counting a packet under its conversation at this interface.

use core::arch::asm;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_ns, programs::TcContext};
use aya_log_ebpf::debug;
use nodescope_ebpf::{
    Counter, EventKind, HopKey, HopRecord, NatState, Reason, UnattributedKey,
    packet::{Echo, Plain, plain, tcp_flag},
    slots,
};

use crate::{
    CAREFUL,
    careful::either,
    events::{changed, tell},
    frame::Head,
    maps::{HOPS, PORT_SLOTS, PORTS, SCRATCH, UNATTRIBUTED, UNPLACED, round, scratch_of},
    nat, offload, payload, rare, tcp,
};

/// What the records and counters need of an skb besides its bytes.
#[derive(Clone, Copy)]
pub struct Skb {
    /// The interface's index.
    pub ifindex: u32,
    /// `gso_segs`: 0 or 1 for a packet that offload did not join.
    segments: u32,
    /// `len`: the whole frame in bytes.
    pub length: u32,
}

impl Skb {
    /// Whether it stands for several packets on the wire.
    #[inline(always)]
    pub fn offloaded(self) -> bool {
        self.segments > 1
    }

    /// Packets that it is on the wire.
    #[inline(always)]
    fn packets(self) -> u32 {
        if self.offloaded() { self.segments } else { 1 }
    }

    /// Reads it.
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        let skb = ctx.skb.skb;
        // SAFETY: the context is valid for the whole run of the program.
        unsafe {
            Self {
                ifindex: (*skb).ifindex,
                segments: (*skb).gso_segs,
                length: (*skb).len,
            }
        }
    }
}

/// Counts one packet. `EGRESS`: the hook; `HOST`: of a bridge or an uplink, which see packets
/// that are not theirs.
#[inline(always)]
pub fn account<const EGRESS: bool, const HOST: bool>(ctx: &TcContext) {
    let skb = Skb::of(ctx);
    if HOST {
        let foreign = if EGRESS {
            is_bridged(ctx, skb.ifindex).then_some(Reason::Bridged)
        } else {
            // SAFETY: as in `Skb::of`.
            (unsafe { (*ctx.skb.skb).pkt_type } == PACKET_OTHERHOST).then_some(Reason::OtherHost)
        };
        if let Some(reason) = foreign {
            unattributed(ctx, hook(skb.ifindex, EGRESS, reason), 1, skb.length);
            return;
        }
    }
    if let Err(reason) = attribute::<EGRESS>(ctx, skb) {
        unattributed(ctx, hook(skb.ifindex, EGRESS, reason), 1, skb.length);
    }
}

/// Whether a packet at a bridge's egress came in by a port of the same bridge: what the bridge
/// took for itself came in, once more, by the bridge.
#[inline(always)]
fn is_bridged(ctx: &TcContext, ifindex: u32) -> bool {
    // SAFETY: as in `Skb::of`.
    let from = unsafe { (*ctx.skb.skb).ingress_ifindex };
    if from == 0 || from == ifindex {
        return false;
    }
    // Most packets came by no port of any bridge, and are spared the look-up.
    // SAFETY: the values are integers that are read once.
    let maybe = PORT_SLOTS
        .get_ptr(slots::of_port(from))
        .is_some_and(|ports| unsafe { *ports } != 0);
    // SAFETY: as above.
    maybe
        && PORTS
            .get_ptr(from)
            .is_some_and(|bridge| unsafe { *bridge } == ifindex)
}

/// Adds a frame to its record.
#[inline(always)]
fn attribute<const EGRESS: bool>(ctx: &TcContext, skb: Skb) -> Result<(), Reason> {
    if CAREFUL {
        return rare::attribute(ctx, EGRESS);
    }
    let (length, offloaded) = (skb.length as usize, skb.offloaded());
    let Some(packet) = plain(&Head::of(ctx), length, offloaded, skb.ifindex, EGRESS) else {
        return rare::attribute(ctx, EGRESS);
    };
    let Plain {
        key,
        forward,
        flags,
    } = packet;
    let (record, counted) = match HOPS.get_ptr_mut(&key) {
        Some(record) => (record, false),
        // There is more to say of it than it costs to read it again.
        None if rare::is_worth_a_look(ctx, &key) => return rare::attribute(ctx, EGRESS),
        None => make(&key, forward, flags, Echo::No, skb)?,
    };
    offload(ctx, skb, EGRESS);
    // Taken out again by the agent already, with this packet in it.
    if record.is_null() {
        return Ok(());
    }
    // SAFETY: the record comes from the map, whose elements stay valid for this run.
    unsafe {
        if !counted {
            add(record, forward, skb);
        }
        follow(&key, record, forward, flags);
        if (*record).payload != 0 {
            let sender = if forward { key.a_port } else { key.b_port };
            payload::capture(ctx, &key, record, u32::from(forward), sender);
        }
        if EGRESS && (*record).nat == NatState::Unknown as u8 {
            nat::resolve(ctx, &key, record, u32::from(forward));
        }
        changed(&key, record);
    }
    Ok(())
}

/// Makes a record for a packet, or gives the one that another CPU just made; and whether the
/// packet is in it. One that is taken out again at once is null.
#[inline(always)]
pub fn make(
    key: &HopKey,
    forward: bool,
    flags: u16,
    echo: Echo,
    skb: Skb,
) -> Result<(*mut HopRecord, bool), Reason> {
    // A SYN+ACK or an echo reply is an answer: the one who gets it opened.
    const ANSWER: u16 = (tcp_flag::SYN | tcp_flag::ACK) as u16;
    let answer = flags & ANSWER == ANSWER || echo == Echo::Reply;
    let how = u32::from(forward == answer) | u32::from(forward) << 1;
    let made = scratch_of(key).is_some() && open_record(how, skb.packets(), skb.length) != 0;
    if made {
        tell(key, EventKind::Open);
    }
    let record = HOPS.get_ptr_mut(key).unwrap_or(core::ptr::null_mut());
    if record.is_null() && !made {
        return Err(Reason::TableFull);
    }
    Ok((record, made))
}

/// Makes a record with its first packet in it, so that the agent can take it out at any moment
/// and misses none; 1 when that was done. `how`: bit 0 is the opener, bit 1 is set when the
/// packet is from `a` to `b`. Its key is in [`SCRATCH`], for the verifier takes this as a global
/// function ([`rare`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open_record(how: u32, packets: u32, bytes: u32) -> u32 {
    // Beside the stack, of which there are 512 bytes for a whole chain of calls.
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's element, which nothing else uses while this program runs.
    let made = unsafe {
        let fresh = &raw mut (*scratch).fresh;
        fresh.write_bytes(0, 1);
        let counter = either!(how & 2 != 0, &raw mut (*fresh).ab, &raw mut (*fresh).ba);
        (*counter).packets = u64::from(packets);
        (*counter).bytes = u64::from(bytes);
        (*fresh).first_ns = bpf_ktime_get_ns();
        (*fresh).opener = (how & 1) as u8;
        let key = &(*scratch).key;
        (*fresh).payload = payload::wanted(key);
        // Of a new one the agent is told otherwise, and looks at it in the next round once more.
        (*fresh).told = round() as u8;
        // A failure is a full table, or another CPU that was first and told of it.
        HOPS.insert(key, &*fresh, u64::from(BPF_NOEXIST)).is_ok()
    };
    u32::from(made)
}

/// Counts what an skb has more of packets than the interface counts.
#[inline(always)]
pub fn offload(ctx: &TcContext, skb: Skb, egress: bool) {
    if skb.offloaded() {
        offload::add(ctx, skb.ifindex, egress, skb.segments - 1);
    }
}

/// Adds a frame to the counter of its direction.
///
/// # Safety
///
/// `record` points into the map.
#[inline(always)]
pub unsafe fn add(record: *mut HopRecord, forward: bool, skb: Skb) {
    // SAFETY: the caller's promise; fields that several CPUs add to are added to atomically.
    unsafe {
        let counter = either!(forward, &raw mut (*record).ab, &raw mut (*record).ba);
        atomic_add(&raw mut (*counter).packets, u64::from(skb.packets()));
        atomic_add(&raw mut (*counter).bytes, u64::from(skb.length));
    }
}

/// What the flags of a TCP segment mean for its conversation.
///
/// # Safety
///
/// `record` points into the map.
#[inline(always)]
pub unsafe fn follow(key: &HopKey, record: *mut HopRecord, forward: bool, flags: u16) {
    const TURN: u16 = (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) as u16;
    if flags == 0 {
        return;
    }
    // SAFETY: the caller's promise; the bytes are each written whole, and a later packet corrects
    // what two CPUs wrote at once.
    unsafe {
        let seen = either!(
            forward,
            &raw const (*record).ab_flags,
            &raw const (*record).ba_flags
        );
        // What is no flag of the header was never seen.
        if flags & (!u16::from(*seen) | TURN) != 0 {
            tcp::turn(key, record, u32::from(forward), u32::from(flags));
        }
    }
}

/// `PACKET_OTHERHOST` (uapi linux/if_packet.h).
const PACKET_OTHERHOST: u32 = 3;

/// Adds to a counter that other CPUs add to as well. The bpf target has no compare-and-swap in
/// its base set and so core offers no atomics for it; this instruction every kernel has.
///
/// # Safety
///
/// `counter` points into a map's value and is aligned to 8.
#[inline(always)]
pub unsafe fn atomic_add(counter: *mut u64, more: u64) {
    // SAFETY: the caller's promise; nothing but the addition happens.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {more}", counter = in(reg) counter, more = in(reg) more);
    }
}

/// A hook and a reason as one word, because a function of the kernel side takes five at most.
#[inline(always)]
pub fn hook(ifindex: u32, egress: bool, reason: Reason) -> u64 {
    u64::from(ifindex) | u64::from(egress) << 32 | (reason as u64) << 40
}

/// Counts what no record takes: skbs and bytes as the interface counts them.
#[inline(never)]
pub fn unattributed(ctx: &TcContext, hook: u64, packets: u32, bytes: u32) {
    let reason = (hook >> 40) as u8;
    let key = UnattributedKey {
        ifindex: hook as u32,
        egress: (hook >> 32) as u8,
        reason,
        reserved: 0,
    };
    let mut counter = UNATTRIBUTED.get_ptr_mut(key);
    if counter.is_none() {
        if !CAREFUL {
            debug!(
                ctx,
                "interface {}: first packet in no record, reason {}", key.ifindex, reason
            );
        }
        let first = Counter {
            packets: u64::from(packets),
            bytes: u64::from(bytes),
        };
        // Of this CPU; the others' are zero.
        if UNATTRIBUTED
            .insert(key, first, u64::from(BPF_NOEXIST))
            .is_ok()
        {
            return;
        }
        // Another CPU was first, or there is no room.
        counter = UNATTRIBUTED.get_ptr_mut(key);
    }
    if let Some(counter) = counter.or_else(|| UNPLACED.get_ptr_mut(u32::from(reason))) {
        // SAFETY: this CPU's element of a per-CPU map, which nothing else writes meanwhile.
        unsafe {
            (*counter).packets += u64::from(packets);
            (*counter).bytes += u64::from(bytes);
        }
    }
}
