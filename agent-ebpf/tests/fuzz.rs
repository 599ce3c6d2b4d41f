//! The parser on frames that nobody made by hand: it does not panic, its two halves agree, and so
//! does an independent parser about every frame that that one takes for well-formed.
//!
//! `cargo xtask fuzz --seconds 60` gives it more of them.

mod frames;

use etherparse::{EtherType, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use nodescope_ebpf::packet::{Frame, Packet, Part, Plain, Start, Whole, plain, whole};
use nodescope_ebpf::{Address, Kind, Reason, mapped};
use proptest::prelude::*;

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let bytes = self.0.get(at..at.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice is as long as T, a header of plain bytes.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// What both halves make of a frame; they agree.
fn ours(frame: &[u8]) -> Result<Whole, Reason> {
    let mut found = Whole::EMPTY;
    let start = Start::Ethernet;
    let long = whole(&Bytes(frame), 0, start, frame.len(), false, &mut found).map(|()| found);
    for egress in [false, true] {
        if let Some(short) = plain(&Bytes(frame), frame.len(), false, 7, egress) {
            let Ok(long) = long else {
                panic!("plain and yet no packet: {frame:02x?}");
            };
            let (key, forward) = long.packet.key(7, egress);
            let flags = long.packet.flags;
            let wanted = Plain {
                key,
                forward,
                flags,
            };
            assert_eq!(short, wanted);
        }
    }
    long
}

fn address(bytes: [u8; 16]) -> Address {
    std::array::from_fn(|word| {
        u32::from_ne_bytes(std::array::from_fn(|byte| bytes[word * 4 + byte]))
    })
}

/// What the other parser says: addresses, protocol, whether it is whole, and then ports and kind.
struct Theirs {
    source: Address,
    destination: Address,
    protocol: u8,
    fragment: bool,
    ports: Option<(u16, u16, Kind)>,
}

/// `None` for what it does not take for a well-formed IP packet.
fn theirs(frame: &[u8]) -> Option<Theirs> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination, payload) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => (
            mapped(ip.header().source()),
            mapped(ip.header().destination()),
            ip.payload().clone(),
        ),
        NetSlice::Ipv6(ip) => (
            address(ip.header().source()),
            address(ip.header().destination()),
            ip.payload().clone(),
        ),
        NetSlice::Arp(_) => return None,
    };
    // An echo is known by its type; with a code other than 0, which nobody sends, the other parser
    // does not call it one.
    let message = |kind: u8, code: u8, echoes: [u8; 2], rest: [u8; 4]| {
        if echoes.contains(&kind) {
            let id = u16::from_be_bytes([rest[0], rest[1]]);
            (id, id, Kind::Ports)
        } else {
            let id = u16::from_be_bytes([kind, code]);
            (id, id, Kind::IcmpMessage)
        }
    };
    let ports = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            Some((tcp.source_port(), tcp.destination_port(), Kind::Ports))
        }
        Some(TransportSlice::Udp(udp)) => {
            Some((udp.source_port(), udp.destination_port(), Kind::Ports))
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let (kind, code) = (icmp.type_u8(), icmp.code_u8());
            Some(message(kind, code, [0, 8], icmp.bytes5to8()))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (kind, code) = (icmp.type_u8(), icmp.code_u8());
            Some(message(kind, code, [128, 129], icmp.bytes5to8()))
        }
        None => None,
    };
    // SCTP (RFC 9260 3.1) it does not know.
    let ports = match (payload.ip_number.0, payload.payload) {
        (132, [a, b, c, d, ..]) if !payload.fragmented => Some((
            u16::from_be_bytes([*a, *b]),
            u16::from_be_bytes([*c, *d]),
            Kind::Ports,
        )),
        _ => ports,
    };
    Some(Theirs {
        source,
        destination,
        protocol: payload.ip_number.0,
        fragment: payload.fragmented,
        ports,
    })
}

/// Why a frame that is well-formed may yet be in no conversation.
fn is_explained(frame: &[u8], reason: Reason, theirs: &Theirs) -> bool {
    let sliced = SlicedPacket::from_ethernet(frame).ok();
    match reason {
        // Two tags are looked behind, and nothing but tags (MACsec, for example).
        Reason::Tagged => sliced.is_some_and(|packet| packet.link_exts.len() > 2),
        Reason::NotIp => sliced.is_some_and(|packet| {
            let other = |ext: &LinkExtSlice<'_>| !matches!(ext, LinkExtSlice::Vlan(_));
            packet.link_exts.iter().any(other)
        }),
        // Extension headers beyond the sixth, or in an order in which none is looked behind.
        Reason::Extension => theirs.source[2] != nodescope_ebpf::MAPPED,
        // An ICMP header is read with the four bytes that every message has (RFC 792); SCTP with
        // its ports. What ends before is no packet of a conversation.
        Reason::Truncated => theirs.ports.is_none(),
        // A header that is too short for itself, of a transport that it did not read.
        Reason::Malformed => theirs.ports.is_none(),
        _ => false,
    }
}

fn compare(frame: &[u8]) -> Result<(), TestCaseError> {
    let ours = ours(frame);
    let Some(theirs) = theirs(frame) else {
        return Ok(());
    };
    let found = match ours {
        Ok(found) => found,
        Err(reason) => {
            let explained = is_explained(frame, reason, &theirs);
            prop_assert!(explained, "{reason:?} of {frame:02x?}");
            return Ok(());
        }
    };
    let Packet {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        kind,
        ..
    } = found.packet;
    prop_assert_eq!((source, destination), (theirs.source, theirs.destination));
    prop_assert_eq!(found.part != Part::Whole, theirs.fragment);
    // What a later fragment of IPv6 begins with, only the first one says for sure.
    if found.part != Part::Later {
        prop_assert_eq!(protocol, theirs.protocol);
    }
    if let Some(ports) = theirs.ports {
        prop_assert_eq!((source_port, destination_port, kind), ports);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        // A seed is printed; nothing is written beside the sources.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_a_packet_or_a_reason(frame in proptest::collection::vec(any::<u8>(), 0..128)) {
        compare(&frame)?;
    }

    #[test]
    fn well_formed_frames_are_what_another_parser_says(frame in frames::well_formed()) {
        compare(&frame)?;
    }

    #[test]
    fn broken_frames_are_what_another_parser_says_where_it_reads_them(frame in frames::mutated()) {
        compare(&frame)?;
    }
}

/// The generator makes what the comparison is about, and the other parser reads most of it.
#[test]
fn well_formed_frames_are_read_by_both() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = frames::well_formed();
    let (mut both, mut plain_ones, mut v6) = (0, 0, 0);
    for _ in 0..1000 {
        let tree = strategy.new_tree(&mut runner).expect("a frame");
        let frame = tree.current();
        let read = ours(&frame).is_ok() && theirs(&frame).is_some();
        both += u32::from(read);
        plain_ones += u32::from(plain(&Bytes(&frame), frame.len(), false, 7, true).is_some());
        v6 += u32::from(frame[12..14] == EtherType::IPV6.0.to_be_bytes());
    }
    assert!(both > 800, "{both} of 1000 are read by both parsers");
    assert!(
        plain_ones > 200 && v6 > 200,
        "{plain_ones} plain, {v6} IPv6"
    );
}
