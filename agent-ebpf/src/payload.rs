//! The heads of the first payload packets of probe conversations, for the agent to read the
//! answers of health checks, and the headers of DNS answers, which have no name in them; their first
//! question goes along only where the agent was asked for it. Which conversations these are is
//! decided when a record is made, so that the packets of all others pay for one comparison with
//! zero.

use core::arch::asm;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes},
    programs::TcContext,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};
use nodescope_ebpf::{
    Address, DNS_PORT, EventKind, HEAD, HopKey, HopRecord, PayloadEvent, ProbeEnd, ProbeKey,
    packet::{Frame, protocol},
    wanted as bits,
};

use crate::{
    careful::copy,
    frame::Bytes,
    maps::{DNS_BYTES, LOST, PAYLOAD, PROBE_PORTS, SCRATCH, scratch_of},
};

/// The first value of a record's `payload`.
#[inline(never)]
pub fn wanted(key: &HopKey) -> u8 {
    if key.protocol != protocol::TCP {
        let dns = key.a_port == DNS_PORT || key.b_port == DNS_PORT;
        return u8::from(key.protocol == protocol::UDP && dns);
    }
    // An end by address and port, then by address alone; the other end decides for pods.
    let (a, b) = (end(&key.a, key.a_port), end(&key.b, key.b_port));
    if a == ProbeEnd::Port as u32 || b == ProbeEnd::Port as u32 {
        return bits::YES;
    }
    let (from_a, from_b) = (end(&key.a, 0), end(&key.b, 0));
    let source = from_a == ProbeEnd::Source as u32 || from_b == ProbeEnd::Source as u32;
    let pod = (a == ProbeEnd::PodPort as u32 && from_b == ProbeEnd::Node as u32)
        || (b == ProbeEnd::PodPort as u32 && from_a == ProbeEnd::Node as u32);
    u8::from(source || pod)
}

/// What is said of an end; 0 for nothing.
#[inline(always)]
fn end(address: &Address, port: u16) -> u32 {
    let key = ProbeKey {
        address: *address,
        port,
        reserved: 0,
    };
    // SAFETY: the value is copied at once; one that changes meanwhile is a number either way.
    unsafe { PROBE_PORTS.get(key) }.map_or(0, |value| *value)
}

/// Sends the head of a packet's payload, if it has one and not enough were sent.
/// `sender` is the port that it came from: looked up in here, its address in the caller's stack
/// could be left in the register for results, which the verifier refuses.
///
/// # Safety
///
/// `record` points into the map.
#[inline(never)]
pub unsafe fn capture(
    ctx: &TcContext,
    key: &HopKey,
    record: *mut HopRecord,
    forward: u32,
    sender: u16,
) {
    let one = if forward != 0 {
        bits::AB_ONE
    } else {
        bits::BA_ONE
    };
    // SAFETY: the caller's promise. Two CPUs may both send, which is one head more.
    let state = unsafe { (*record).payload };
    if (state / one) & bits::MASK >= bits::MOST {
        return;
    }
    let dns = key.protocol == protocol::UDP;
    if dns && sender != DNS_PORT {
        return;
    }
    if scratch_of(key).is_some() && send_head(ctx.skb.skb, forward) != 0 {
        // SAFETY: as above.
        unsafe { (*record).payload = state + one };
    }
}

/// Sends the head of a packet's payload; 0 when it has none. The conversation is in [`SCRATCH`],
/// for the verifier takes this as a global function ([`crate::rare`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_head(skb: *mut __sk_buff, forward: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's element, which nothing else uses while this program runs.
    let key = unsafe { &(*scratch).key };
    let dns = key.protocol == protocol::UDP;
    let Some(place) = payload(&TcContext::new(skb), u32::from(dns)) else {
        return 0;
    };
    let Some(mut entry) = PAYLOAD.reserve::<PayloadEvent>(0) else {
        if let Some(lost) = LOST.get_ptr_mut(EventKind::Payload as u32) {
            // SAFETY: this CPU's element of a per-CPU array.
            unsafe { *lost += 1 };
        }
        return 1;
    };
    let event = entry.as_mut_ptr();
    let most = if dns { DNS_BYTES.load() } else { HEAD as u32 };
    let mut last = place.length - 1;
    if last > most - 1 {
        last = most - 1;
    }
    // SAFETY: nothing is touched but the number; the verifier learns its bound from it.
    unsafe { asm!("{last} &= 511", last = inout(reg) last) };
    // SAFETY: the entry is as large as a PayloadEvent, whose every field is written; the helper
    // writes at most HEAD bytes.
    let failed = unsafe {
        (*event).time_ns = bpf_ktime_get_ns();
        copy(&raw mut (*event).key, key);
        (*event).sequence = place.sequence;
        (*event).length = place.length;
        (*event).captured = last as u16 + 1;
        (*event).from_a = u8::from(forward != 0);
        (*event).reserved = 0;
        bpf_skb_load_bytes(
            skb.cast(),
            place.offset,
            (&raw mut (*event).head).cast(),
            last + 1,
        )
    };
    if failed == 0 {
        entry.submit(0);
    } else {
        entry.discard(0);
    }
    1
}

/// Where a packet's payload lies.
struct Place {
    offset: u32,
    length: u32,
    /// 0 for UDP.
    sequence: u32,
}

/// `None` for a packet without payload. The packet was parsed before: what cannot be is not
/// looked for again.
#[inline(always)]
fn payload(ctx: &TcContext, udp: u32) -> Option<Place> {
    let bytes = Bytes::of(ctx);
    let version: u8 = bytes.read(EthHdr::LEN)?;
    // SAFETY: the context is valid for the whole run of the program.
    let whole = unsafe { (*ctx.skb.skb).len };
    let (at, end) = if version >> 4 == 4 {
        let ip: Ipv4Hdr = bytes.read(EthHdr::LEN)?;
        let header = ((ip.vihl & 0x0f) as usize) << 2;
        (
            EthHdr::LEN + header,
            EthHdr::LEN as u32 + u32::from(u16::from_be_bytes(ip.tot_len)),
        )
    } else {
        let ip: Ipv6Hdr = bytes.read(EthHdr::LEN)?;
        (
            EthHdr::LEN + Ipv6Hdr::LEN,
            (EthHdr::LEN + Ipv6Hdr::LEN) as u32 + u32::from(u16::from_be_bytes(ip.payload_len)),
        )
    };
    // A large offloaded packet may say 0; then the frame ends where it ends.
    let end = if end <= at as u32 || end > whole {
        whole
    } else {
        end
    };
    if udp != 0 {
        let offset = (at + UdpHdr::LEN) as u32;
        return (end > offset).then(|| Place {
            offset,
            length: end - offset,
            sequence: 0,
        });
    }
    let tcp: [u8; 13] = bytes.read(at)?;
    let offset = at as u32 + (u32::from(tcp[12] >> 4) << 2);
    (end > offset).then(|| Place {
        offset,
        length: end - offset,
        sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
    })
}
