//! Parts of packets, packets in packets, and packets that are cut.

use super::tagged::{chained, tagged};
use super::*;

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
