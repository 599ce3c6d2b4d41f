//! The parser of every packet. It is called for what is not plain, so it may take its time: it
//! reads small pieces, and the kernel side gives it a [`Frame`] that copies them out.

use network_types::{
    eth::EthHdr,
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use super::{
    Echo, FRAGMENT_OFFSET, Frame, IPV6_DESTINATION, IPV6_NEXT, IPV6_SOURCE, Ipv6Start,
    MORE_FRAGMENTS, Packet, ether_type, ipv4_fits, ipv6_fits, protocol, tcp, udp,
};
use crate::{Kind, MAPPED, Reason, extra::TAG, mapped};

/// Extension headers of an IPv6 packet that are looked behind at most. RFC 8200 4.1 recommends
/// an order in which there are seven, and ESP, the last of them, hides what follows.
const CHAIN: usize = 6;

/// Where the reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At an Ethernet header.
    Ethernet,
    /// At a header of this EtherType.
    Network(u16),
}

/// Which part of a datagram a packet is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole = 0,
    /// The first fragment, which has the ports.
    First = 1,
    /// A later one: the packet has no ports.
    Later = 2,
}

/// What there is to know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its own place.
    pub packet: Packet,
    /// What an ICMP error quotes, turned round: the packet is on its way to the one who sent
    /// what it quotes, as an answer would be. Counts when `quotes`.
    pub about: Packet,
    /// Whether it is an error about another packet, whose tuple could be read.
    pub quotes: bool,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Whole or fragment.
    pub part: Part,
    /// Identification of the datagram that a fragment is of.
    pub datagram: u32,
    /// VLAN tags in the frame, the outer first: see [`TAG`].
    pub tags: [u16; 2],
    /// Where the transport header is.
    pub transport: u32,
}

impl Whole {
    /// Nothing known yet.
    pub const EMPTY: Self = Self {
        packet: Packet::EMPTY,
        about: Packet::EMPTY,
        quotes: false,
        icmp_type: 0,
        icmp_code: 0,
        part: Part::Whole,
        datagram: 0,
        tags: [0; 2],
        transport: 0,
    };

    /// Whether the transport header follows the IP header, and that an Ethernet header.
    #[inline(always)]
    pub fn is_plainly_laid_out(&self) -> bool {
        let v4 = self.packet.source[2] == MAPPED;
        let behind_v6 = self.transport as usize == EthHdr::LEN + Ipv6Hdr::LEN;
        self.tags[0] == 0 && self.part == Part::Whole && (v4 || behind_v6)
    }
}

/// Reads a packet from `base` on. `length` is the whole frame's length in bytes; `offloaded` as
/// for [`super::plain`]. What `found` held before is gone.
///
/// # Errors
///
/// The reason for which the frame belongs to no conversation.
#[inline(always)]
pub fn whole<F: Frame>(
    frame: &F,
    base: usize,
    start: Start,
    length: usize,
    offloaded: bool,
    found: &mut Whole,
) -> Result<(), Reason> {
    *found = Whole::EMPTY;
    let mut at = base;
    let mut ether = match start {
        Start::Ethernet => {
            let ethernet: EthHdr = frame.read(at).ok_or(Reason::Truncated)?;
            at += EthHdr::LEN;
            u16::from_be(ethernet.ether_type)
        }
        Start::Network(ether) => ether,
    };
    for slot in 0..2 {
        if ether == ether_type::VLAN || ether == ether_type::QINQ {
            // IEEE 802.1Q: tag control information, then the type of what follows.
            let tag: [u8; 4] = frame.read(at).ok_or(Reason::Truncated)?;
            found.tags[slot] = TAG | u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff;
            ether = u16::from_be_bytes([tag[2], tag[3]]);
            at += 4;
        }
    }
    let room = length.wrapping_sub(at);
    match ether {
        ether_type::IPV4 => {
            let ip: Ipv4Hdr = frame.read(at).ok_or(Reason::Truncated)?;
            if !ipv4_fits(&ip, ((ip.vihl & 0x0f) as usize) << 2, room, offloaded) {
                return Err(Reason::Malformed);
            }
            at = ipv4(&ip, at, found);
        }
        ether_type::IPV6 => {
            let ip: Ipv6Start = frame.read(at).ok_or(Reason::Truncated)?;
            if !ipv6_fits(&ip, room, offloaded) {
                return Err(Reason::Malformed);
            }
            at = ipv6(frame, ip[IPV6_NEXT], at, found)?;
        }
        ether_type::VLAN | ether_type::QINQ | ether_type::MPLS => return Err(Reason::Tagged),
        _ => return Err(Reason::NotIp),
    }
    if found.part == Part::Later {
        return Ok(());
    }
    found.transport = at as u32;
    transport(frame, at, found)
}

/// Addresses, protocol and which fragment; gives where the transport header starts.
#[inline(always)]
fn ipv4(ip: &Ipv4Hdr, at: usize, found: &mut Whole) -> usize {
    found.packet.source = mapped(ip.src_addr);
    found.packet.destination = mapped(ip.dst_addr);
    found.packet.protocol = ip.proto;
    let fragment = u16::from_be_bytes(ip.frags);
    if fragment & FRAGMENT_OFFSET != 0 {
        found.part = Part::Later;
    } else if fragment & MORE_FRAGMENTS != 0 {
        found.part = Part::First;
    }
    found.datagram = u32::from(u16::from_be_bytes(ip.id));
    at + (((ip.vihl & 0x0f) as usize) << 2)
}

/// As [`ipv4`], behind the extension headers.
#[inline(always)]
fn ipv6<F: Frame>(frame: &F, mut next: u8, at: usize, found: &mut Whole) -> Result<usize, Reason> {
    let packet = &mut found.packet;
    frame
        .read_to(at + IPV6_SOURCE, &mut packet.source)
        .ok_or(Reason::Truncated)?;
    frame
        .read_to(at + IPV6_DESTINATION, &mut packet.destination)
        .ok_or(Reason::Truncated)?;
    let mut at = at + Ipv6Hdr::LEN;
    let mut more = true;
    // Written out: without CAP_PERFMON the verifier also walks ways that a processor only guesses,
    // on which a loop does not end.
    macro_rules! headers {
        ($($number:literal)*) => {
            $(if more {
                const { assert!($number <= CHAIN) };
                more = extension(frame, &mut next, &mut at, found)?;
            })*
        };
    }
    headers!(1 2 3 4 5 6);
    found.packet.protocol = next;
    // What a later fragment begins with is not known: any header may be.
    let behind = matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION
    );
    if behind && found.part != Part::Later {
        return Err(Reason::Extension);
    }
    Ok(at)
}

/// Goes behind one extension header; false where there is none, or nothing more to read.
#[inline(always)]
fn extension<F: Frame>(
    frame: &F,
    next: &mut u8,
    at: &mut usize,
    found: &mut Whole,
) -> Result<bool, Reason> {
    match *next {
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
            // RFC 8200 4.3: the length counts units of 8 bytes beyond the first.
            let header: [u8; 2] = frame.read(*at).ok_or(Reason::Truncated)?;
            *next = header[0];
            *at += (header[1] as usize + 1) << 3;
        }
        protocol::AUTHENTICATION => {
            // RFC 4302 2.2: units of 4 bytes, minus 2.
            let header: [u8; 2] = frame.read(*at).ok_or(Reason::Truncated)?;
            *next = header[0];
            *at += (header[1] as usize + 2) << 2;
        }
        protocol::FRAGMENT => {
            // RFC 8200 4.5: 13 bits of offset, two reserved, more follow.
            let header: [u8; 8] = frame.read(*at).ok_or(Reason::Truncated)?;
            *next = header[0];
            *at += 8;
            let fragment = u16::from_be_bytes([header[2], header[3]]);
            found.datagram = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            if fragment & 0xfff8 != 0 {
                found.part = Part::Later;
                return Ok(false);
            }
            if fragment & 1 != 0 {
                found.part = Part::First;
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

#[inline(always)]
fn transport<F: Frame>(frame: &F, at: usize, found: &mut Whole) -> Result<(), Reason> {
    let packet = &mut found.packet;
    match packet.protocol {
        protocol::TCP => {
            let header = frame.read(at).ok_or(Reason::Truncated)?;
            let (ports, flags) = tcp(&header).ok_or(Reason::Malformed)?;
            (packet.source_port, packet.destination_port) = ports;
            packet.flags = flags;
        }
        protocol::UDP => {
            let header = frame.read(at).ok_or(Reason::Truncated)?;
            let (ports, _) = udp(&header).ok_or(Reason::Malformed)?;
            (packet.source_port, packet.destination_port) = ports;
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let icmp: Icmpv4Hdr = frame.read(at).ok_or(Reason::Truncated)?;
            packet.echo = echo(packet.protocol, icmp.type_);
            let id = if packet.echo == Echo::No {
                packet.kind = Kind::IcmpMessage;
                u16::from_be_bytes([icmp.type_, icmp.code])
            } else {
                u16::from_be_bytes([icmp.data[0], icmp.data[1]])
            };
            packet.source_port = id;
            packet.destination_port = id;
            found.icmp_type = icmp.type_;
            found.icmp_code = icmp.code;
            if is_error(found.packet.protocol, icmp.type_) {
                found.quotes = quoted(frame, at + Icmpv4Hdr::LEN, found).is_some();
            }
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

/// Echo request and reply: 8 and 0 (RFC 792), 128 and 129 (RFC 4443).
#[inline(always)]
fn echo(protocol: u8, kind: u8) -> Echo {
    match (protocol, kind) {
        (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => Echo::Request,
        (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => Echo::Reply,
        _ => Echo::No,
    }
}

/// Messages that quote the packet that they are about: unreachable, source quench, redirect, time
/// exceeded, parameter problem (RFC 792); the first four types of ICMPv6 (RFC 4443 2.1).
#[inline(always)]
fn is_error(protocol: u8, kind: u8) -> bool {
    if protocol == protocol::ICMP {
        matches!(kind, 3 | 4 | 5 | 11 | 12)
    } else {
        matches!(kind, 1..=4)
    }
}

/// The packet that an error quotes, turned round. It is cut, and only its first bytes count:
/// RFC 792 promises 8 behind the IP header, enough for ports. `None` when they are not there, as
/// for a quoted later fragment.
#[inline(always)]
fn quoted<F: Frame>(frame: &F, at: usize, found: &mut Whole) -> Option<()> {
    let about = &mut found.about;
    let at = if found.packet.protocol == protocol::ICMP {
        let ip: Ipv4Hdr = frame.read(at)?;
        if ip.vihl >> 4 != 4 || u16::from_be_bytes(ip.frags) & FRAGMENT_OFFSET != 0 {
            return None;
        }
        about.source = mapped(ip.dst_addr);
        about.destination = mapped(ip.src_addr);
        about.protocol = ip.proto;
        at + (((ip.vihl & 0x0f) as usize) << 2)
    } else {
        let ip: Ipv6Start = frame.read(at)?;
        if ip[0] >> 4 != 6 {
            return None;
        }
        frame.read_to(at + IPV6_SOURCE, &mut about.destination)?;
        frame.read_to(at + IPV6_DESTINATION, &mut about.source)?;
        about.protocol = ip[IPV6_NEXT];
        let mut at = at + Ipv6Hdr::LEN;
        // The path of a fragmented or marked packet; longer chains are not quoted in practice.
        for _ in 0..2 {
            match about.protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
                    let header: [u8; 2] = frame.read(at)?;
                    about.protocol = header[0];
                    at += (header[1] as usize + 1) << 3;
                }
                protocol::FRAGMENT => {
                    let header: [u8; 4] = frame.read(at)?;
                    if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                        return None;
                    }
                    about.protocol = header[0];
                    at += 8;
                }
                _ => break,
            }
        }
        at
    };
    match about.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            let ports: [u8; 4] = frame.read(at)?;
            about.destination_port = u16::from_be_bytes([ports[0], ports[1]]);
            about.source_port = u16::from_be_bytes([ports[2], ports[3]]);
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let header: [u8; 6] = frame.read(at)?;
            if echo(about.protocol, header[0]) == Echo::No {
                return None;
            }
            about.source_port = u16::from_be_bytes([header[4], header[5]]);
            about.destination_port = about.source_port;
        }
        _ => {}
    }
    Some(())
}
