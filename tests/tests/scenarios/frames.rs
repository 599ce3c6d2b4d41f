//! Frames made by hand, as hex for the lab's `raw-send`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes as hex.
pub fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An Ethernet frame between two machines that are not there.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let macs = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    [&macs[..], &kind.to_be_bytes(), payload].concat()
}

/// A frame with VLAN tags of these types and identifiers.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|(kind, id)| [*kind, *id]);
    let tags: Vec<u8> = tags.flat_map(u16::to_be_bytes).collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// An IPv4 packet. `fragment` is the header's field: 0x2000 more follow, and an offset in units of
/// 8 bytes. `options` counts words.
pub fn ipv4(
    ends: [Ipv4Addr; 2],
    protocol: u8,
    (datagram, fragment): (u16, u16),
    options: u8,
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + usize::from(options) * 4;
    let mut ip = vec![0x45 + options, 0];
    ip.extend(((header + payload.len()) as u16).to_be_bytes());
    ip.extend(datagram.to_be_bytes());
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0]);
    ip.extend(ends.iter().flat_map(Ipv4Addr::octets));
    // No operation (RFC 791).
    ip.extend(vec![1; usize::from(options) * 4]);
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&ip, payload].concat()
}

/// An IPv6 packet.
pub fn ipv6(ends: [Ipv6Addr; 2], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    ip.extend(ends.iter().flat_map(Ipv6Addr::octets));
    [&ip, payload].concat()
}

/// A UDP datagram without a checksum.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let header = [source, destination, length, 0].map(u16::to_be_bytes);
    [header.concat(), payload.to_vec()].concat()
}

/// An IPv4 packet in a frame from one hardware address to another.
pub fn between(from: &str, to: &str, packet: &[u8]) -> anyhow::Result<Vec<u8>> {
    let bytes = |mac: &str| -> Result<Vec<u8>, std::num::ParseIntError> {
        mac.split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect()
    };
    Ok([&bytes(to)?[..], &bytes(from)?, &[0x08, 0x00], packet].concat())
}
