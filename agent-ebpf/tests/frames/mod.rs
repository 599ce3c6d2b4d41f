//! Frames as proptest makes them: well-formed ones of every kind, and what is left of them when
//! bytes are changed or cut off.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// A well-formed frame: up to three tags, IPv4 with options or IPv6 with extension headers,
/// fragments, and TCP, UDP, ICMP, ICMPv6, SCTP or something else in it.
pub fn well_formed() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop_oneof![
        6 => Just(0usize),
        2 => Just(1),
        1 => Just(2),
        1 => Just(3),
    ];
    (tags, any::<u16>(), prop_oneof![ipv4(), ipv6()]).prop_map(|(tags, tag, (ether, packet))| {
        // Zeroes: for a test run in the kernel the frame is then for this host.
        let mut frame = vec![0; 12];
        for number in 0..tags {
            let kind: u16 = if number + 1 < tags { 0x88a8 } else { 0x8100 };
            frame.extend(kind.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(ether.to_be_bytes());
        frame.extend(packet);
        frame
    })
}

/// A frame that began well: some bytes are others, or its end is missing, or it goes on.
pub fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..4);
    let length = prop_oneof![2 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (well_formed(), changes, length, vec(any::<u8>(), 0..8)).prop_map(
        |(mut frame, changes, length, more)| {
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            match length {
                Some(length) => frame.truncate(length.index(frame.len())),
                None => frame.extend(more),
            }
            frame
        },
    )
}

/// Few addresses and ports, so that packets of one conversation meet.
fn small() -> impl Strategy<Value = u8> {
    1u8..4
}

fn transport(icmp: u8) -> impl Strategy<Value = (u8, Vec<u8>)> {
    let payload = || vec(any::<u8>(), 0..40);
    let ports = || (small(), small()).prop_map(|(from, to)| [from, 0, to, 0]);
    prop_oneof![
        4 => (ports(), any::<u8>(), any::<[u8; 2]>(), 0usize..=10, payload()).prop_map(
            |(ports, flags, window, options, payload)| {
                let mut tcp = ports.to_vec();
                tcp.extend([0; 8]);
                tcp.extend([((5 + options) << 4) as u8, flags]);
                tcp.extend(window);
                tcp.extend([0; 4]);
                tcp.extend(vec![1; options * 4]);
                tcp.extend(payload);
                (6, tcp)
            }
        ),
        4 => (ports(), payload()).prop_map(|(ports, payload)| {
            let mut udp = ports.to_vec();
            udp.extend((8 + payload.len() as u16).to_be_bytes());
            udp.extend([0, 0]);
            udp.extend(payload);
            (17, udp)
        }),
        2 => (any::<[u8; 2]>(), small(), payload()).prop_map(move |(kind, id, payload)| {
            let mut message = vec![kind[0], kind[1], 0, 0, 0, id, 0, 1];
            message.extend(payload);
            (icmp, message)
        }),
        1 => (small(), payload()).prop_map(move |(id, payload)| {
            let request = if icmp == 1 { 8 } else { 128 };
            let mut echo = vec![request, 0, 0, 0, 0, id, 0, 1];
            echo.extend(payload);
            (icmp, echo)
        }),
        1 => (ports(), payload()).prop_map(|(ports, payload)| {
            let mut sctp = ports.to_vec();
            sctp.extend([0; 8]);
            sctp.extend(payload);
            (132, sctp)
        }),
        // GRE, ESP, and a number that nobody has.
        1 => (prop_oneof![Just(47u8), Just(50), Just(253)], payload()),
    ]
}

fn ipv4() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let fragment = prop_oneof![
        8 => Just(0u16),
        1 => Just(0x4000),
        1 => any::<u16>().prop_map(|bits| bits & 0x3fff),
    ];
    let options = prop_oneof![3 => Just(0usize), 1 => 0usize..=10];
    (transport(1), fragment, options, small(), small()).prop_map(
        |((protocol, payload), fragment, options, from, to)| {
            let header = 20 + options * 4;
            let mut ip = vec![0x40 | (header / 4) as u8, 0];
            ip.extend(((header + payload.len()) as u16).to_be_bytes());
            ip.extend([0, from]);
            ip.extend(fragment.to_be_bytes());
            ip.extend([64, protocol, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
            ip.extend(vec![1; options * 4]);
            ip.extend(payload);
            (0x0800, ip)
        },
    )
}

fn ipv6() -> impl Strategy<Value = (u16, Vec<u8>)> {
    // Hop-by-hop, destination options, routing, fragment (with a bit that says which).
    let extensions = prop_oneof![
        3 => Just(Vec::new()),
        1 => vec(prop_oneof![Just(60u8), Just(43), Just(44)], 0..4),
        1 => Just(vec![0u8]),
    ];
    (
        transport(58),
        extensions,
        any::<[u8; 2]>(),
        small(),
        small(),
    )
        .prop_map(|((protocol, payload), extensions, fragment, from, to)| {
            let mut behind = payload;
            let mut next = protocol;
            for extension in extensions.iter().rev() {
                let header = if *extension == 44 {
                    let offset = [fragment[0] & 1, fragment[1] & 0xf9];
                    vec![next, 0, offset[0], offset[1], 0, 0, 0, from]
                } else {
                    // PadN over the rest.
                    vec![next, 0, 1, 4, 0, 0, 0, 0]
                };
                behind = [header, behind].concat();
                next = *extension;
            }
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend((behind.len() as u16).to_be_bytes());
            ip.extend([next, 64]);
            for last in [from, to] {
                ip.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
            ip.extend(behind);
            (0x86dd, ip)
        })
}
