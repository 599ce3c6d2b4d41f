//! Packets that are not plain: off the way of all others, so that those pay nothing for them.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY},
    helpers::generated::bpf_ktime_get_ns,
    programs::TcContext,
};
use nodescope_ebpf::{
    HopKey, HopRecord, Kind, MAPPED, NatState, Reason,
    packet::{Echo, Part, Start, is_tunnel, protocol, whole},
};

use crate::{
    events::changed,
    extras::{self, Note},
    frame::Copied,
    hops::{self, Skb},
    maps::{FRAGMENTS, HOPS, RARE, Rare},
    nat, payload,
};

/// Adds a frame to the record that it belongs to.
#[inline(always)]
pub fn attribute(ctx: &TcContext, egress: bool) -> Result<(), Reason> {
    match attribute_rare(ctx.skb.skb, u32::from(egress)) {
        0 => Ok(()),
        reason => Err(reason_of(reason)),
    }
}

/// Whether there is more to say of a new conversation than its record holds: a VLAN tag that is
/// not in the frame, or a tunnel.
#[inline(always)]
pub fn is_worth_a_look(ctx: &TcContext, key: &HopKey) -> bool {
    // SAFETY: the context is valid for the whole run of the program.
    let tagged = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    tagged || key.protocol == protocol::UDP && (is_tunnel(key.a_port) || is_tunnel(key.b_port))
}

/// [`read_rare`] for who has the context.
#[inline(always)]
pub fn read(ctx: &TcContext, slot: u32, base: u32, start: u32) -> u32 {
    read_rare(ctx.skb.skb, slot, base, start)
}

/// Numbers of reasons are handed out of functions plus one, for the kernel side's functions
/// return one number.
const fn number(reason: Reason) -> u32 {
    reason as u32 + 1
}

#[inline(always)]
fn reason_of(number: u32) -> Reason {
    match number - 1 {
        0 => Reason::NotIp,
        1 => Reason::Truncated,
        3 => Reason::Fragment,
        4 => Reason::Extension,
        5 => Reason::TableFull,
        7 => Reason::Tagged,
        _ => Reason::Malformed,
    }
}

/// Reads a packet into an element of [`RARE`], from `base` on, where an Ethernet header starts (0)
/// or a header of an EtherType. Gives 0, or the number of a reason.
///
/// Exported, like [`attribute_rare`], so that the verifier takes it as a global function: it looks
/// at it once, and not again on every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_rare(skb: *mut __sk_buff, slot: u32, base: u32, start: u32) -> u32 {
    let ctx = &TcContext::new(skb);
    let Some(rare) = RARE.get_ptr_mut(slot) else {
        return number(Reason::Malformed);
    };
    let skb = Skb::of(ctx);
    let start = if start == 0 {
        Start::Ethernet
    } else {
        Start::Network(start as u16)
    };
    // SAFETY: this CPU's element of a per-CPU array; a program is not interrupted by another that
    // uses it.
    let found = unsafe { &mut (*rare).whole };
    let outcome = whole(
        &Copied(ctx),
        base as usize,
        start,
        skb.length as usize,
        skb.offloaded(),
        found,
    );
    match outcome {
        Ok(()) => 0,
        Err(reason) => number(reason),
    }
}

/// Counts the packet, and gives 0, or the number of the reason why it is in no record.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn attribute_rare(skb: *mut __sk_buff, egress: u32) -> u32 {
    let ctx = &TcContext::new(skb);
    let Some(rare) = RARE.get_ptr_mut(0) else {
        return number(Reason::Malformed);
    };
    let failed = read_rare(skb, 0, 0, 0);
    if failed != 0 {
        return failed;
    }
    let skb = Skb::of(ctx);
    // SAFETY: as in `read`.
    let (whole, key) = unsafe { (&mut (*rare).whole, &mut (*rare).key) };
    if whole.part != Part::Whole && !fragment(rare, skb.ifindex, egress) {
        return number(Reason::Fragment);
    }
    if whole.quotes {
        let forward = whole.about.write_key(skb.ifindex, egress != 0, key);
        if let Some(record) = HOPS.get_ptr_mut(&*key) {
            // SAFETY: the record comes from the map. What it says of the error is there before
            // the packet is, so that nobody takes the one for an answer.
            unsafe {
                extras::error(ctx, record, u32::from(forward));
                hops::offload(ctx, skb, egress != 0);
                hops::add(record, forward, skb);
                changed(key, record);
            }
            return 0;
        }
    }
    let forward = whole.packet.write_key(skb.ifindex, egress != 0, key);
    let (record, counted) = match HOPS.get_ptr_mut(&*key) {
        Some(record) => (record, false),
        None => {
            let packet = &whole.packet;
            match hops::make(key, forward, packet.flags, packet.echo, skb) {
                Ok((record, counted)) => {
                    let noted = whole.tags[0] != 0 || is_worth_a_look(ctx, key);
                    if noted && !record.is_null() {
                        // SAFETY: the record comes from the map.
                        unsafe { extras::describe(ctx, record) };
                    }
                    (record, counted)
                }
                Err(reason) => return number(reason),
            }
        }
    };
    hops::offload(ctx, skb, egress != 0);
    // Taken out again by the agent already, with this packet in it.
    if record.is_null() {
        return 0;
    }
    // SAFETY: the record comes from the map.
    unsafe {
        if !counted {
            hops::add(record, forward, skb);
        }
        if whole.part == Part::Later {
            extras::note(key, record, Note::Fragment as u32, u32::from(forward));
        } else {
            if whole.packet.echo != Echo::No {
                echo(record, whole.packet.echo);
            }
            hops::follow(key, record, forward, whole.packet.flags);
            if (*record).payload != 0 && whole.is_plainly_laid_out() {
                let sender = whole.packet.source_port;
                payload::capture(ctx, key, record, u32::from(forward), sender);
            }
        }
        if egress != 0 && (*record).nat == NatState::Unknown as u8 {
            nat::resolve(ctx, key, record, u32::from(forward));
        }
        changed(key, record);
    }
    0
}

/// Keeps the ports of a first fragment, and gives them to a later one; false when there are none
/// to give.
#[inline(always)]
fn fragment(rare: *mut Rare, ifindex: u32, egress: u32) -> bool {
    // SAFETY: as in `read`.
    let Rare {
        whole,
        fragment,
        ports,
        ..
    } = unsafe { &mut *rare };
    let packet = &mut whole.packet;
    fragment.source = packet.source;
    fragment.destination = packet.destination;
    fragment.datagram = whole.datagram;
    fragment.ifindex = ifindex;
    fragment.protocol = if packet.source[2] == MAPPED {
        packet.protocol
    } else {
        protocol::FRAGMENT
    };
    fragment.egress = egress as u8;
    fragment.reserved = 0;
    if whole.part == Part::First {
        ports.source = packet.source_port;
        ports.destination = packet.destination_port;
        ports.protocol = packet.protocol;
        ports.kind = packet.kind as u8;
        ports.reserved = 0;
        // An LRU has room; what fails costs later fragments their place, and those are counted.
        let _ = FRAGMENTS.insert(&*fragment, &*ports, u64::from(BPF_ANY));
        return true;
    }
    let Some(known) = FRAGMENTS.get_ptr(&*fragment) else {
        return false;
    };
    // SAFETY: the element stays valid for this run; one that is given away meanwhile is the ports
    // of another datagram, as when identifications are used again too soon.
    let known = unsafe { &*known };
    packet.source_port = known.source;
    packet.destination_port = known.destination;
    packet.protocol = known.protocol;
    packet.kind = if known.kind == Kind::IcmpMessage as u8 {
        Kind::IcmpMessage
    } else {
        Kind::Ports
    };
    true
}

/// Times of an echo and its answer.
///
/// # Safety
///
/// `record` points into the map.
#[inline(always)]
unsafe fn echo(record: *mut HopRecord, echo: Echo) {
    // SAFETY: the caller's promise.
    unsafe {
        let now = bpf_ktime_get_ns();
        if echo == Echo::Request {
            (*record).request_ns = now;
            (*record).answer_ns = 0;
        } else if (*record).answer_ns == 0 {
            (*record).answer_ns = now;
        }
    }
}
