//! The parser of the kernel side, on frames made by hand.

use nodescope_ebpf::extra::TAG;
use nodescope_ebpf::packet::{
    Echo, Frame, Packet, Part, Plain, Start, Whole, plain, tcp_flag, tunnel, whole,
};
use nodescope_ebpf::{Kind, Reason, mapped};

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let bytes = self.0.get(at..at.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice is as long as T, a header of plain bytes.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// What a frame is; where both parsers read it, they must agree.
fn read(frame: &[u8]) -> Result<Packet, Reason> {
    read_long(frame, frame.len(), false)
}

fn read_long(frame: &[u8], length: usize, offloaded: bool) -> Result<Packet, Reason> {
    let mut found = Whole::EMPTY;
    let start = Start::Ethernet;
    let all = whole(&Bytes(frame), 0, start, length, offloaded, &mut found).map(|()| found.packet);
    for egress in [false, true] {
        if let Some(short) = plain(&Bytes(frame), length, offloaded, 7, egress) {
            let Ok(long) = all else {
                panic!("what is plain is a packet: {short:?}, {all:?}");
            };
            let (key, forward) = long.key(7, egress);
            let flags = long.flags;
            assert_eq!(
                short,
                Plain {
                    key,
                    forward,
                    flags
                }
            );
            assert!(found.is_plainly_laid_out());
        }
    }
    all
}

/// Everything about a frame that is a packet.
fn everything(frame: &[u8]) -> Whole {
    let mut found = Whole::EMPTY;
    let outcome = whole(
        &Bytes(frame),
        0,
        Start::Ethernet,
        frame.len(),
        false,
        &mut found,
    );
    assert_eq!(outcome, Ok(()));
    found
}

fn is_plain(frame: &[u8]) -> bool {
    plain(&Bytes(frame), frame.len(), false, 7, false).is_some()
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet with `options` words of options.
fn ipv4(protocol: u8, options: usize, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options * 4;
    let mut ip = vec![0x40 | (header / 4) as u8, 0];
    ip.extend(((header + payload.len()) as u16).to_be_bytes());
    ip.extend([0, 1]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0]);
    ip.extend([10, 244, 0, 15]);
    ip.extend([10, 224, 1, 2]);
    ip.extend(vec![1; options * 4]);
    ip.extend(payload);
    ethernet(0x0800, &ip)
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    ip.extend(payload);
    ethernet(0x86dd, &ip)
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut tcp = 60996u16.to_be_bytes().to_vec();
    tcp.extend(8080u16.to_be_bytes());
    tcp.extend([0; 8]);
    tcp.extend([0x50, flags]);
    tcp.extend([0, 1, 0, 0, 0, 0]);
    tcp
}

#[test]
fn ports_and_flags_of_tcp_with_and_without_options() {
    for options in 0..=10 {
        let packet = read(&ipv4(6, options, 0, &tcp(tcp_flag::SYN))).unwrap();
        assert_eq!(packet.source, mapped([10, 244, 0, 15]));
        assert_eq!(packet.destination, mapped([10, 224, 1, 2]));
        assert_eq!((packet.source_port, packet.destination_port), (60996, 8080));
        assert_eq!(packet.flags, u16::from(tcp_flag::SYN));
        assert_eq!(packet.kind, Kind::Ports);
    }
}

#[test]
fn both_directions_have_one_key_and_their_own_hooks() {
    let there = read(&ipv4(6, 0, 0, &tcp(tcp_flag::SYN))).unwrap();
    let back = Packet {
        source: there.destination,
        destination: there.source,
        source_port: there.destination_port,
        destination_port: there.source_port,
        ..there
    };
    // In by a pod's interface, the answer out by it: one record.
    let (key, forward) = there.key(15, false);
    let (answer, backward) = back.key(15, true);
    assert_eq!(key, answer);
    assert_ne!(forward, backward);
    // The same tuple out by the interface it came in by: another record.
    assert_ne!(there.key(15, true).0, key);
    assert_ne!(there.key(16, false).0, key);
}

#[test]
fn an_echo_has_its_id_and_another_message_its_type() {
    let icmp = |kind: u8, code: u8| [kind, code, 0, 0, 0x12, 0x34, 0, 1];
    let request = read(&ipv4(1, 0, 0, &icmp(8, 0))).unwrap();
    assert_eq!(
        (request.source_port, request.destination_port),
        (0x1234, 0x1234)
    );
    assert_eq!((request.echo, request.kind), (Echo::Request, Kind::Ports));
    assert_eq!(read(&ipv4(1, 0, 0, &icmp(0, 0))).unwrap().echo, Echo::Reply);
    assert_eq!(read(&ipv6(58, &icmp(128, 0))).unwrap().echo, Echo::Request);
    let unreachable = read(&ipv4(1, 0, 0, &icmp(3, 1))).unwrap();
    assert_eq!(unreachable.kind, Kind::IcmpMessage);
    assert_eq!(unreachable.source_port, 0x0301);
}

#[test]
fn udp_sctp_and_what_has_no_ports() {
    let udp = [0xec, 0x3c, 0, 53, 0, 8, 0, 0];
    let packet = read(&ipv4(17, 0, 0, &udp)).unwrap();
    assert_eq!((packet.source_port, packet.destination_port), (60476, 53));
    let sctp = [0xec, 0x3c, 0x0b, 0x59, 0, 0, 0, 0, 0, 0, 0, 0];
    let packet = read(&ipv4(132, 0, 0, &sctp)).unwrap();
    assert_eq!((packet.source_port, packet.destination_port), (60476, 2905));
    let gre = read(&ipv4(47, 0, 0, &[0; 4])).unwrap();
    assert_eq!(
        (gre.protocol, gre.source_port, gre.destination_port),
        (47, 0, 0)
    );
}

#[test]
fn what_contradicts_itself_is_malformed() {
    let good = ipv4(6, 0, 0, &tcp(0));
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        read(&frame)
    };
    assert!(with(14, 0x45).is_ok());
    assert_eq!(with(14, 0x55), Err(Reason::Malformed), "version 5");
    assert_eq!(with(14, 0x44), Err(Reason::Malformed), "header of 16 bytes");
    assert_eq!(
        with(16, 0xff),
        Err(Reason::Malformed),
        "longer than the frame"
    );
    assert_eq!(
        with(17, 19),
        Err(Reason::Malformed),
        "shorter than its header"
    );
    assert_eq!(
        with(46, 0x40),
        Err(Reason::Malformed),
        "TCP header of 16 bytes"
    );
    let short = ipv4(17, 0, 0, &[0, 1, 0, 2, 0, 7, 0, 0]);
    assert_eq!(read(&short), Err(Reason::Malformed), "UDP length 7");
    // A packet that offload joined may have outgrown the length field.
    let mut big = good.clone();
    (big[16], big[17]) = (0, 0);
    assert_eq!(read(&big), Err(Reason::Malformed));
    assert!(read_long(&big, 70_000, true).is_ok());
}

#[test]
fn what_is_not_ip_has_its_reason() {
    assert_eq!(read(&ethernet(0x0806, &[0; 28])), Err(Reason::NotIp));
    assert_eq!(read(&ethernet(0x8847, &[0; 8])), Err(Reason::Tagged));
}

/// A frame with tags between the hardware addresses and the type.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut all = frame[..12].to_vec();
    for (kind, control) in tags {
        all.extend(kind.to_be_bytes());
        all.extend(control.to_be_bytes());
    }
    all.extend(&frame[12..]);
    all
}

#[test]
fn vlan_tags_are_looked_behind() {
    let frame = ipv4(6, 3, 0, &tcp(tcp_flag::ACK));
    let bare = read(&frame).unwrap();
    // Priority 5 is no part of the identifier.
    let single = tagged(&frame, &[(0x8100, 0xa00a)]);
    let double = tagged(&frame, &[(0x88a8, 100), (0x8100, 200)]);
    assert_eq!(read(&single), Ok(bare));
    assert_eq!(read(&double), Ok(bare));
    assert_eq!(everything(&single).tags, [TAG | 10, 0]);
    assert_eq!(everything(&double).tags, [TAG | 100, TAG | 200]);
    assert!(!is_plain(&single) && !everything(&single).is_plainly_laid_out());
    let triple = tagged(&double, &[(0x8100, 1)]);
    assert_eq!(read(&triple), Err(Reason::Tagged));
}

/// Extension headers in front of `payload`, as (number, bytes behind the next header's number).
fn chained(headers: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for (at, (_, rest)) in headers.iter().enumerate() {
        all.push(headers.get(at + 1).map_or(last, |(number, _)| *number));
        all.extend(rest);
    }
    all.extend(payload);
    ipv6(headers.first().map_or(last, |(number, _)| *number), &all)
}

#[test]
fn extension_headers_are_looked_behind() {
    let short = |number| (number, vec![0; 7]);
    let long = |number| (number, [vec![2], vec![0; 22]].concat());
    // RFC 4302: a length of 4 is 24 bytes.
    let authentication = (51, [vec![4], vec![0; 22]].concat());
    let fragment = |offset: u16| {
        (
            44,
            [vec![0], offset.to_be_bytes().to_vec(), vec![0, 0, 0, 9]].concat(),
        )
    };
    let bare = read(&ipv6(6, &tcp(tcp_flag::ACK))).unwrap();
    for headers in [
        vec![short(0)],
        vec![long(43)],
        vec![
            long(0),
            long(60),
            short(43),
            authentication.clone(),
            short(60),
        ],
        vec![authentication],
        // A datagram that is one fragment (RFC 6946).
        vec![fragment(0)],
    ] {
        let frame = chained(&headers, 6, &tcp(tcp_flag::ACK));
        assert_eq!(read(&frame), Ok(bare), "{headers:?}");
        assert!(!is_plain(&frame));
    }
    let many: Vec<_> = (0..7).map(|_| short(60)).collect();
    assert_eq!(
        read(&chained(&many[..6], 6, &tcp(0))).map(|p| p.protocol),
        Ok(6)
    );
    assert_eq!(read(&chained(&many, 6, &tcp(0))), Err(Reason::Extension));
    // No next header: a conversation without ports.
    assert_eq!(
        read(&chained(&many[..1], 59, &[])).map(|p| p.protocol),
        Ok(59)
    );
    // A chain that ends before its transport header.
    assert_eq!(
        read(&chained(&[long(0)], 6, &tcp(0)[..10])),
        Err(Reason::Truncated)
    );
    // Fragments, behind a header of their own.
    let first = everything(&chained(
        &[short(0), fragment(1)],
        17,
        &[0, 1, 0, 2, 0, 8, 0, 0],
    ));
    assert_eq!(
        (first.part, first.datagram, first.packet.source_port),
        (Part::First, 9, 1)
    );
    let later = everything(&chained(&[short(0), fragment(0x11)], 17, &[0; 8]));
    assert_eq!(
        (later.part, later.datagram, later.packet.source_port),
        (Part::Later, 9, 0)
    );
}

#[test]
fn the_first_fragment_has_ports_and_later_ones_none() {
    let ports = [0, 1, 0, 2, 0, 8, 0, 0];
    // More fragments (0x2000) at offset 0; "do not fragment" (0x4000) is none.
    let first = everything(&ipv4(17, 0, 0x2000, &ports));
    assert_eq!((first.part, first.datagram), (Part::First, 1));
    assert_eq!(first.packet.source_port, 1);
    assert!(!is_plain(&ipv4(17, 0, 0x2000, &ports)));
    assert!(is_plain(&ipv4(17, 0, 0x4000, &ports)));
    for fragment in [0x2001, 0x0001, 0x1fff] {
        let later = everything(&ipv4(17, 0, fragment, &[0; 8]));
        assert_eq!((later.part, later.datagram), (Part::Later, 1));
        assert_eq!((later.packet.protocol, later.packet.source_port), (17, 0));
    }
}

#[test]
fn an_error_is_about_the_packet_that_it_quotes() {
    // Unreachable, quoting a datagram that the frame's destination sent to 10.0.0.9, cut behind
    // the ports.
    let quote = |protocol: u8, rest: &[u8]| {
        let mut ip = ipv4(protocol, 1, 0, rest)[14..].to_vec();
        (ip[12..16]).copy_from_slice(&[10, 224, 1, 2]);
        (ip[16..20]).copy_from_slice(&[10, 0, 0, 9]);
        [vec![3, 3, 0, 0, 0, 0, 0, 0], ip].concat()
    };
    let found = everything(&ipv4(1, 0, 0, &quote(17, &[0, 1, 0, 2])));
    assert!(found.quotes);
    assert_eq!((found.icmp_type, found.icmp_code), (3, 3));
    // Turned round, as an answer to what is quoted.
    assert_eq!(found.about.destination, mapped([10, 224, 1, 2]));
    assert_eq!(found.about.source, mapped([10, 0, 0, 9]));
    assert_eq!(
        (found.about.destination_port, found.about.source_port),
        (1, 2)
    );
    assert_eq!(found.about.protocol, 17);
    // Its own place, for the case that nobody knows the other.
    assert_eq!(
        (found.packet.kind, found.packet.source_port),
        (Kind::IcmpMessage, 0x0303)
    );
    // An echo is quoted by its identifier, another message not at all.
    let echo = everything(&ipv4(1, 0, 0, &quote(1, &[8, 0, 0, 0, 0x12, 0x34])));
    assert_eq!((echo.quotes, echo.about.source_port), (true, 0x1234));
    assert!(!everything(&ipv4(1, 0, 0, &quote(1, &[3, 0, 0, 0, 0, 0]))).quotes);
    // Cut before the ports, or inside the quoted header.
    assert!(!everything(&ipv4(1, 0, 0, &quote(17, &[0, 1]))).quotes);
    assert!(!everything(&ipv4(1, 0, 0, &quote(17, &[])[..20])).quotes);

    let inner = ipv6(6, &tcp(0)[..8]);
    let big = [&[2, 0, 0, 0, 0, 0, 5, 0], &inner[14..]].concat();
    let found = everything(&ipv6(58, &big));
    assert!(found.quotes);
    assert_eq!(
        (found.about.source_port, found.about.destination_port),
        (8080, 60996)
    );
    // A neighbour solicitation quotes nothing.
    assert!(!everything(&ipv6(58, &[135, 0, 0, 0, 0, 0, 0, 0])).quotes);
}

#[test]
fn a_window_of_zero_is_told_save_of_a_reset() {
    let with = |flags: u8| {
        let mut segment = tcp(flags);
        segment[15] = 0;
        read(&ipv4(6, 0, 0, &segment)).unwrap().flags
    };
    assert_eq!(
        with(tcp_flag::ACK),
        u16::from(tcp_flag::ACK) | tcp_flag::ZERO_WINDOW
    );
    assert_eq!(with(tcp_flag::RST), u16::from(tcp_flag::RST));
}

#[test]
fn tunnels_show_where_the_inner_packet_is() {
    use nodescope_ebpf::extra::Encapsulation::{Geneve, Vxlan};
    let inner = ipv4(17, 0, 0, &[0, 1, 0, 2, 0, 8, 0, 0]);
    let outer = |port: u16, header: &[u8], inner: &[u8]| {
        let length = (8 + header.len() + inner.len()) as u16;
        let udp = [0xc000u16, port, length, 0].map(u16::to_be_bytes).concat();
        ipv4(17, 0, 0, &[&udp, header, inner].concat())
    };
    let look = |frame: &[u8]| {
        let found = everything(frame);
        let port = found.packet.destination_port;
        tunnel(&Bytes(frame), found.transport as usize, port)
    };
    let inside = |frame: &[u8]| {
        let found = look(frame)?;
        let mut packet = Whole::EMPTY;
        let bytes = Bytes(frame);
        whole(
            &bytes,
            found.at,
            found.start,
            frame.len(),
            false,
            &mut packet,
        )
        .ok()?;
        Some((found.kind, found.network, packet.packet.destination_port))
    };
    for port in [4789, 8472] {
        let frame = outer(port, &[8, 0, 0, 0, 0, 1, 2, 0], &inner);
        assert_eq!(inside(&frame), Some((Vxlan, 0x102, 2)));
    }
    assert_eq!(look(&outer(4789, &[0; 8], &inner)), None, "no identifier");
    // Two words of options.
    let options = [2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(inside(&outer(6081, &options, &inner)), Some((Geneve, 7, 2)));
    let bare = [0, 0, 0x08, 0, 0, 0, 7, 0];
    assert_eq!(
        inside(&outer(6081, &bare, &inner[14..])),
        Some((Geneve, 7, 2))
    );
    assert_eq!(
        inside(&outer(6081, &options[..12], &[])),
        None,
        "cut in its options"
    );
    assert_eq!(
        look(&outer(6081, &[0xc0, 0, 0, 0, 0, 0, 0, 0], &inner)),
        None,
        "version 3"
    );
}

/// A frame cut anywhere: an error, or the packet when the cut is past what is read. No panic.
#[test]
fn every_cut_is_refused_or_harmless() {
    let icmp = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
    for frame in [
        ipv4(6, 2, 0, &tcp(tcp_flag::ACK)),
        ipv4(17, 0, 0, &[0, 1, 0, 2, 0, 8, 0, 0]),
        ipv4(1, 0, 0, &icmp),
        ipv6(6, &tcp(0)),
        tagged(&ipv4(6, 0, 0, &tcp(0)), &[(0x88a8, 1), (0x8100, 2)]),
        chained(&[(0, vec![0; 7]), (60, vec![0; 7])], 6, &tcp(0)),
    ] {
        let whole = read(&frame).unwrap();
        for end in 14..frame.len() {
            match read(&frame[..end]) {
                Err(Reason::Truncated | Reason::Malformed) => {}
                other => panic!(
                    "cut at {end} of {}: {other:?}, whole {whole:?}",
                    frame.len()
                ),
            }
        }
    }
}
