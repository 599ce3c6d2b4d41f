//! Packets whose transport header is right behind the IP header.

use super::*;

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
