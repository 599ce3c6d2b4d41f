//! The parser of the kernel side, on frames made by hand.

use nodescope_ebpf::packet::{Echo, Frame, Packet, parse, tcp_flag};
use nodescope_ebpf::{Kind, Reason, mapped};

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let bytes = self.0.get(at..at.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice is as long as T, a header of plain bytes.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

fn read(frame: &[u8]) -> Result<Packet, Reason> {
    parse(&Bytes(frame), frame.len(), false)
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
    tcp.extend([0; 6]);
    tcp
}

#[test]
fn ports_and_flags_of_tcp_with_and_without_options() {
    for options in 0..=10 {
        let packet = read(&ipv4(6, options, 0, &tcp(tcp_flag::SYN))).unwrap();
        assert_eq!(packet.source, mapped([10, 244, 0, 15]));
        assert_eq!(packet.destination, mapped([10, 224, 1, 2]));
        assert_eq!((packet.source_port, packet.destination_port), (60996, 8080));
        assert_eq!(packet.flags, tcp_flag::SYN);
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
fn the_first_fragment_has_ports_and_later_ones_none() {
    // More fragments (0x2000) at offset 0.
    assert!(read(&ipv4(17, 0, 0x2000, &[0, 1, 0, 2, 0, 8, 0, 0])).is_ok());
    for fragment in [0x2001, 0x0001, 0x1fff] {
        assert_eq!(read(&ipv4(17, 0, fragment, &[0; 8])), Err(Reason::Fragment));
    }
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
    assert_eq!(
        parse(&Bytes(&big), big.len(), false),
        Err(Reason::Malformed)
    );
    assert!(parse(&Bytes(&big), 70_000, true).is_ok());
}

#[test]
fn what_is_not_ip_or_hides_behind_a_header_has_its_reason() {
    assert_eq!(read(&ethernet(0x0806, &[0; 28])), Err(Reason::NotIp));
    for tag in [0x8100, 0x88a8, 0x8847] {
        assert_eq!(read(&ethernet(tag, &[0; 8])), Err(Reason::Tagged));
    }
    for next in [0, 43, 44, 51, 60] {
        assert_eq!(read(&ipv6(next, &[0; 16])), Err(Reason::Extension));
    }
    assert!(read(&ipv6(6, &tcp(0))).is_ok());
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
