//! From the bytes of a frame to the 5-tuple: the same code in the kernel and in host tests.

use network_types::{
    eth::EthHdr,
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{Address, HopKey, Kind, Reason, mapped};

/// TCP flags, octet 13 of the header (RFC 9293 3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is significant.
    pub const ACK: u8 = 0x10;
}

/// EtherTypes (IEEE 802, RFC 9542).
mod ether_type {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const QINQ: u16 = 0x88a8;
    pub(super) const MPLS: u16 = 0x8847;
}

/// IP protocol numbers (IANA).
pub mod protocol {
    pub(super) const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const SCTP: u8 = 132;
}

/// Where the bytes of a frame come from.
pub trait Frame {
    /// Copies a header that starts at `at`; `None` past the end.
    fn read<T: Copy>(&self, at: usize) -> Option<T>;
}

/// Whether an ICMP message asks or answers, for round-trip times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Not an echo.
    No,
    /// Echo request.
    Request,
    /// Echo reply.
    Reply,
}

/// One packet's place in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port in host order, or what [`Kind`] says.
    pub source_port: u16,
    /// Destination port in host order, or what [`Kind`] says.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Meaning of the ports.
    pub kind: Kind,
    /// TCP flags, 0 for other protocols.
    pub flags: u8,
    /// ICMP echo.
    pub echo: Echo,
}

impl Packet {
    /// The key at an interface and whether the sender is its `a`.
    ///
    /// Any total order of the ends will do as long as both sides use this one: words as they
    /// lie in memory, then ports.
    #[inline(always)]
    pub fn key(&self, ifindex: u32, egress: bool) -> (HopKey, bool) {
        let forward = ordered(
            &self.source,
            self.source_port,
            &self.destination,
            self.destination_port,
        );
        let (a, a_port, b, b_port) = if forward {
            (
                self.source,
                self.source_port,
                self.destination,
                self.destination_port,
            )
        } else {
            (
                self.destination,
                self.destination_port,
                self.source,
                self.source_port,
            )
        };
        let key = HopKey {
            a,
            b,
            a_port,
            b_port,
            ifindex,
            protocol: self.protocol,
            kind: self.kind as u8,
            orientation: u8::from(forward == egress),
            reserved: 0,
        };
        (key, forward)
    }
}

/// Whether the first end sorts before (or equals) the second.
#[inline(always)]
pub fn ordered(a: &Address, a_port: u16, b: &Address, b_port: u16) -> bool {
    // The last word first: it is the only one that differs between IPv4 addresses.
    if a[3] != b[3] {
        return a[3] < b[3];
    }
    if a[2] != b[2] {
        return a[2] < b[2];
    }
    if a[1] != b[1] {
        return a[1] < b[1];
    }
    if a[0] != b[0] {
        return a[0] < b[0];
    }
    a_port <= b_port
}

/// Reads a frame from its Ethernet header on. `length` is the whole frame's length in bytes and
/// `offloaded` says that it stands for several packets (its IP length may then be 0).
///
/// # Errors
///
/// The reason for which the frame belongs to no conversation.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, length: usize, offloaded: bool) -> Result<Packet, Reason> {
    let ethernet: EthHdr = frame.read(0).ok_or(Reason::Truncated)?;
    let mut packet = Packet {
        source: [0; 4],
        destination: [0; 4],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        kind: Kind::Ports,
        flags: 0,
        echo: Echo::No,
    };
    let at = match u16::from_be(ethernet.ether_type) {
        ether_type::IPV4 => ipv4(frame, length, offloaded, &mut packet)?,
        ether_type::IPV6 => ipv6(frame, length, offloaded, &mut packet)?,
        ether_type::VLAN | ether_type::QINQ | ether_type::MPLS => return Err(Reason::Tagged),
        _ => return Err(Reason::NotIp),
    };
    transport(frame, at, &mut packet)?;
    Ok(packet)
}

/// Addresses and protocol; gives where the transport header starts.
#[inline(always)]
fn ipv4<F: Frame>(
    frame: &F,
    length: usize,
    offloaded: bool,
    packet: &mut Packet,
) -> Result<usize, Reason> {
    let ip: Ipv4Hdr = frame.read(EthHdr::LEN).ok_or(Reason::Truncated)?;
    // The mask bounds the offset for the verifier: 0 to 60 in steps of 4.
    let header = ((ip.vihl & 0x0f) as usize) << 2;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    let total = u16::from_be_bytes(ip.tot_len) as usize;
    // BIG TCP writes 0; every other IP length holds the header and fits the frame.
    if !(total == 0 && offloaded) && (total < header || total > length - EthHdr::LEN) {
        return Err(Reason::Malformed);
    }
    // RFC 791: 13 bits of offset in units of 8 bytes.
    if u16::from_be_bytes(ip.frags) & 0x1fff != 0 {
        return Err(Reason::Fragment);
    }
    packet.protocol = ip.proto;
    packet.source = mapped(ip.src_addr);
    packet.destination = mapped(ip.dst_addr);
    Ok(EthHdr::LEN + header)
}

/// As [`ipv4`].
#[inline(always)]
fn ipv6<F: Frame>(
    frame: &F,
    length: usize,
    offloaded: bool,
    packet: &mut Packet,
) -> Result<usize, Reason> {
    let ip: Ipv6Hdr = frame.read(EthHdr::LEN).ok_or(Reason::Truncated)?;
    let payload = u16::from_be_bytes(ip.payload_len) as usize;
    let room = length.wrapping_sub(EthHdr::LEN + Ipv6Hdr::LEN);
    if ip.version() != 6 || (!(payload == 0 && offloaded) && payload > room) {
        return Err(Reason::Malformed);
    }
    // Hop-by-hop, routing, fragment, AH, destination options (RFC 8200 4).
    if matches!(ip.next_hdr, 0 | 43 | 44 | 51 | 60) {
        return Err(Reason::Extension);
    }
    packet.protocol = ip.next_hdr;
    packet.source = words(ip.src_addr);
    packet.destination = words(ip.dst_addr);
    Ok(EthHdr::LEN + Ipv6Hdr::LEN)
}

#[inline(always)]
fn words(bytes: [u8; 16]) -> Address {
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// Octets 12 and 13 of a TCP header as two bytes: data offset and flags.
type TcpStart = [u8; 14];

#[inline(always)]
fn transport<F: Frame>(frame: &F, at: usize, packet: &mut Packet) -> Result<(), Reason> {
    match packet.protocol {
        protocol::TCP => {
            let tcp: TcpStart = frame.read(at).ok_or(Reason::Truncated)?;
            // RFC 9293: the data offset counts words and is at least the fixed header.
            if ((tcp[12] >> 4) as usize) << 2 < TcpHdr::LEN {
                return Err(Reason::Malformed);
            }
            packet.source_port = u16::from_be_bytes([tcp[0], tcp[1]]);
            packet.destination_port = u16::from_be_bytes([tcp[2], tcp[3]]);
            packet.flags = tcp[13];
        }
        protocol::UDP => {
            let udp: UdpHdr = frame.read(at).ok_or(Reason::Truncated)?;
            let length = u16::from_be_bytes(udp.len) as usize;
            // RFC 768; 0 is what jumbograms and large offloaded packets write.
            if length != 0 && length < UdpHdr::LEN {
                return Err(Reason::Malformed);
            }
            packet.source_port = u16::from_be_bytes(udp.src);
            packet.destination_port = u16::from_be_bytes(udp.dst);
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let icmp: Icmpv4Hdr = frame.read(at).ok_or(Reason::Truncated)?;
            // Echo request and reply: 8 and 0 (RFC 792), 128 and 129 (RFC 4443).
            packet.echo = match (packet.protocol, icmp.type_) {
                (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => Echo::Request,
                (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => Echo::Reply,
                _ => Echo::No,
            };
            let id = if packet.echo == Echo::No {
                packet.kind = Kind::IcmpMessage;
                u16::from_be_bytes([icmp.type_, icmp.code])
            } else {
                u16::from_be_bytes([icmp.data[0], icmp.data[1]])
            };
            packet.source_port = id;
            packet.destination_port = id;
        }
        protocol::SCTP => {
            let ports: [u8; 4] = frame.read(at).ok_or(Reason::Truncated)?;
            packet.source_port = u16::from_be_bytes([ports[0], ports[1]]);
            packet.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        }
        _ => {}
    }
    Ok(())
}
