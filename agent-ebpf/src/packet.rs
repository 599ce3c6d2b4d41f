//! From the bytes of a frame to the 5-tuple: the same code in the kernel and in host tests.
//!
//! Two parsers. [`plain`] knows TCP and UDP right behind an IP header, which is nearly all there
//! is, and is as short as it can be. [`whole`] knows every packet: tags, extension headers,
//! fragments, messages about other packets, tunnels. Where both give a packet it is the same.

mod tunnel;
mod whole;

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{Address, HopKey, Kind, MAPPED};

pub use tunnel::{Tunnel, is_tunnel, tunnel};
pub use whole::{Part, Start, Whole, whole};

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
    /// Not a flag of the header: the window is 0 in a segment that is no reset. Above the octet.
    pub const ZERO_WINDOW: u16 = 0x100;
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
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    /// The IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const SCTP: u8 = 132;
}

/// Where the bytes of a frame come from.
pub trait Frame {
    /// Copies a header that starts at `at`; `None` past the end.
    fn read<T: Copy>(&self, at: usize) -> Option<T>;

    /// The same, to where it is wanted.
    #[inline(always)]
    fn read_to<T: Copy>(&self, at: usize, to: &mut T) -> Option<()> {
        *to = self.read(at)?;
        Some(())
    }
}

/// Whether an ICMP message asks or answers, for round-trip times.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Not an echo.
    No = 0,
    /// Echo request.
    Request = 1,
    /// Echo reply.
    Reply = 2,
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
    /// TCP flags and [`tcp_flag::ZERO_WINDOW`], 0 for other protocols.
    pub flags: u16,
    /// ICMP echo.
    pub echo: Echo,
}

impl Packet {
    /// Nothing known yet.
    pub const EMPTY: Self = Self {
        source: [0; 4],
        destination: [0; 4],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        kind: Kind::Ports,
        flags: 0,
        echo: Echo::No,
    };

    /// The key at an interface and whether the sender is its `a`.
    #[inline(always)]
    pub fn key(&self, ifindex: u32, egress: bool) -> (HopKey, bool) {
        let mut key = HopKey::default();
        let forward = self.write_key(ifindex, egress, &mut key);
        (key, forward)
    }

    /// As [`Packet::key`], written where it is wanted: the kernel side's stack is small.
    ///
    /// Any total order of the ends will do as long as both sides use this one: words as they
    /// lie in memory, then ports.
    #[inline(always)]
    pub fn write_key(&self, ifindex: u32, egress: bool, key: &mut HopKey) -> bool {
        let forward = ordered(
            &self.source,
            self.source_port,
            &self.destination,
            self.destination_port,
        );
        if forward {
            key.a = self.source;
            key.b = self.destination;
            key.a_port = self.source_port;
            key.b_port = self.destination_port;
        } else {
            key.a = self.destination;
            key.b = self.source;
            key.a_port = self.destination_port;
            key.b_port = self.source_port;
        }
        key.ifindex = ifindex;
        key.protocol = self.protocol;
        key.kind = self.kind as u8;
        key.orientation = u8::from(forward == egress);
        key.reserved = 0;
        forward
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

/// A common packet's place in a conversation at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Its conversation there.
    pub key: HopKey,
    /// Whether the sender is the key's `a`.
    pub forward: bool,
    /// As [`Packet::flags`].
    pub flags: u16,
}

/// Reads the common kinds: TCP or UDP behind an Ethernet and an IP header, options included, no
/// fragment. `length` is the whole frame's length in bytes and `offloaded` says that it stands
/// for several packets (its IP length may then be 0). `None` for everything else, malformed
/// headers included: [`whole`] says what it is.
#[inline(always)]
pub fn plain<F: Frame>(
    frame: &F,
    length: usize,
    offloaded: bool,
    ifindex: u32,
    egress: bool,
) -> Option<Plain> {
    let ethernet: EthHdr = frame.read(0)?;
    match u16::from_be(ethernet.ether_type) {
        ether_type::IPV4 => {
            let ip: Ipv4Hdr = frame.read(EthHdr::LEN)?;
            // The mask bounds the offset for the verifier: 0 to 60 in steps of 4.
            let header = ((ip.vihl & 0x0f) as usize) << 2;
            let fits = ipv4_fits(&ip, header, length - EthHdr::LEN, offloaded);
            if !fits || u16::from_be_bytes(ip.frags) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
                return None;
            }
            let from = u32::from_ne_bytes(ip.src_addr);
            let to = u32::from_ne_bytes(ip.dst_addr);
            let (ports, flags) = ports(frame, EthHdr::LEN + header, ip.proto)?;
            let forward = from < to || from == to && ports.0 <= ports.1;
            let ((a, a_port), (b, b_port)) = if forward {
                ((from, ports.0), (to, ports.1))
            } else {
                ((to, ports.1), (from, ports.0))
            };
            Some(Plain {
                key: HopKey {
                    a: [0, 0, MAPPED, a],
                    b: [0, 0, MAPPED, b],
                    a_port,
                    b_port,
                    ifindex,
                    protocol: ip.proto,
                    kind: Kind::Ports as u8,
                    orientation: u8::from(forward == egress),
                    reserved: 0,
                },
                forward,
                flags,
            })
        }
        ether_type::IPV6 => {
            let ip: Ipv6Start = frame.read(EthHdr::LEN)?;
            if !ipv6_fits(&ip, length.wrapping_sub(EthHdr::LEN), offloaded) {
                return None;
            }
            let from: Address = frame.read(EthHdr::LEN + IPV6_SOURCE)?;
            let to: Address = frame.read(EthHdr::LEN + IPV6_DESTINATION)?;
            let protocol = ip[IPV6_NEXT];
            let (ports, flags) = ports(frame, EthHdr::LEN + Ipv6Hdr::LEN, protocol)?;
            let forward = ordered(&from, ports.0, &to, ports.1);
            let ((a, a_port), (b, b_port)) = if forward {
                ((from, ports.0), (to, ports.1))
            } else {
                ((to, ports.1), (from, ports.0))
            };
            Some(Plain {
                key: HopKey {
                    a,
                    b,
                    a_port,
                    b_port,
                    ifindex,
                    protocol,
                    kind: Kind::Ports as u8,
                    orientation: u8::from(forward == egress),
                    reserved: 0,
                },
                forward,
                flags,
            })
        }
        _ => None,
    }
}

/// Ports (source, destination) and flags of TCP and UDP; `None` for all else, and for a header
/// that contradicts itself.
#[inline(always)]
fn ports<F: Frame>(frame: &F, at: usize, protocol: u8) -> Option<((u16, u16), u16)> {
    match protocol {
        protocol::TCP => tcp(&frame.read(at)?),
        protocol::UDP => udp(&frame.read(at)?),
        _ => None,
    }
}

/// The first 8 bytes of an IPv6 header (RFC 8200 3); the addresses follow.
type Ipv6Start = [u8; 8];
/// Where the next header's number is in it.
const IPV6_NEXT: usize = 6;
/// Where the source address is in an IPv6 header.
const IPV6_SOURCE: usize = 8;
/// Where the destination address is.
const IPV6_DESTINATION: usize = 24;

/// Bit of the fragment field of IPv4 (RFC 791): more follow.
const MORE_FRAGMENTS: u16 = 0x2000;
/// Its 13 bits of offset in units of 8 bytes.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Whether an IPv4 header agrees with itself and with the `room` that it has.
#[inline(always)]
fn ipv4_fits(ip: &Ipv4Hdr, header: usize, room: usize, offloaded: bool) -> bool {
    let total = u16::from_be_bytes(ip.tot_len) as usize;
    // BIG TCP writes 0; every other IP length holds the header and fits the frame.
    ip.vihl >> 4 == 4
        && header >= Ipv4Hdr::LEN
        && (total == 0 && offloaded || total >= header && total <= room)
}

/// As [`ipv4_fits`].
#[inline(always)]
fn ipv6_fits(ip: &Ipv6Start, room: usize, offloaded: bool) -> bool {
    let payload = u16::from_be_bytes([ip[4], ip[5]]) as usize;
    ip[0] >> 4 == 6 && (payload == 0 && offloaded || payload + Ipv6Hdr::LEN <= room)
}

/// A TCP header as far as the window.
type TcpStart = [u8; 16];

/// Ports (source, destination) and flags; `None` for a header that contradicts itself.
#[inline(always)]
fn tcp(tcp: &TcpStart) -> Option<((u16, u16), u16)> {
    // RFC 9293: the data offset counts words and is at least the fixed header.
    if ((tcp[12] >> 4) as usize) << 2 < TcpHdr::LEN {
        return None;
    }
    let mut flags = u16::from(tcp[13]);
    // A reset has a window of 0 without meaning it.
    if tcp[14] | tcp[15] == 0 && tcp[13] & tcp_flag::RST == 0 {
        flags |= tcp_flag::ZERO_WINDOW;
    }
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    Some(((port(0), port(2)), flags))
}

/// Ports (source, destination), and 0; `None` for a header that contradicts itself.
#[inline(always)]
fn udp(udp: &UdpHdr) -> Option<((u16, u16), u16)> {
    let length = u16::from_be_bytes(udp.len) as usize;
    // RFC 768; 0 is what jumbograms and large offloaded packets write.
    if length != 0 && length < UdpHdr::LEN {
        return None;
    }
    Some((
        (u16::from_be_bytes(udp.src), u16::from_be_bytes(udp.dst)),
        0,
    ))
}
