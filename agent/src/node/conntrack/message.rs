//! From netlink messages to entries.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NetlinkPayload, Nla as _};
use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple,
};
use nodescope_ebpf::{Address, NatRecord, NatTuple, mapped};

use super::{Change, Entry, messages};

/// `CTA_ID` (uapi linux/netfilter/nfnetlink_conntrack.h, as the next ones).
const CTA_ID: u16 = 12;
/// `CTA_ZONE`.
const CTA_ZONE: u16 = 18;
/// `CTA_PROTO_ICMP_ID` and `CTA_PROTO_ICMPV6_ID`.
const CTA_PROTO_ICMP_ID: [u16; 2] = [4, 7];

/// What a piece of messages says.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Changes, in their order.
    pub(super) changes: Vec<Change>,
    /// Whether a reading ends here.
    pub(super) last: bool,
}

impl Piece {
    /// Decodes a piece; `reading`: it is of a reading, not of events.
    ///
    /// # Errors
    /// The kernel refuses the reading.
    pub(super) fn decode(bytes: &[u8], reading: bool) -> io::Result<Self> {
        let mut piece = Self::default();
        for payload in messages(bytes) {
            match payload {
                NetlinkPayload::InnerMessage(message) => {
                    if let NetfilterMessageInner::Conntrack(message) = message.inner {
                        piece.changes.extend(change(&message, reading));
                    }
                }
                NetlinkPayload::Done(_) => piece.last = true,
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(piece)
    }
}

fn change(message: &ConntrackMessage, reading: bool) -> Option<Change> {
    match message {
        ConntrackMessage::New(attributes) if reading => entry(attributes).map(Change::Known),
        ConntrackMessage::New(attributes) => entry(attributes).map(Change::New),
        ConntrackMessage::Delete(attributes) => entry(attributes).map(Change::Gone),
        _ => None,
    }
}

/// An entry; `None` for what has no two tuples.
fn entry(attributes: &[ConntrackAttribute]) -> Option<Entry> {
    let (mut original, mut reply) = (None, None);
    let mut entry = Entry {
        id: 0,
        nat: NatRecord::default(),
    };
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = tuple(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple(parts),
            ConntrackAttribute::CtaStatus(status) => entry.nat.status = status.bits(),
            ConntrackAttribute::Other(other) => match (other.kind(), value(other).as_slice()) {
                (CTA_ID, [a, b, c, d]) => entry.id = u32::from_be_bytes([*a, *b, *c, *d]),
                (CTA_ZONE, [a, b]) => entry.nat.zone = u16::from_be_bytes([*a, *b]),
                _ => {}
            },
            _ => {}
        }
    }
    (entry.nat.original, entry.nat.protocol) = original?;
    (entry.nat.reply, _) = reply?;
    Some(entry)
}

/// A tuple and its protocol.
fn tuple(parts: &[Tuple]) -> Option<(NatTuple, u8)> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let mut tuple = NatTuple::default();
    for part in parts {
        match part {
            Tuple::Ip(ends) => {
                for end in ends {
                    match end {
                        IPTuple::SourceAddress(ip) => source = Some(address(*ip)),
                        IPTuple::DestinationAddress(ip) => destination = Some(address(*ip)),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(ports) => {
                for port in ports {
                    match port {
                        ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                        ProtoTuple::SourcePort(port) => tuple.source_port = *port,
                        ProtoTuple::DestinationPort(port) => tuple.destination_port = *port,
                        // The contract has the identifier in both.
                        ProtoTuple::Other(other) if CTA_PROTO_ICMP_ID.contains(&other.kind()) => {
                            if let [a, b] = value(other)[..] {
                                tuple.source_port = u16::from_be_bytes([a, b]);
                                tuple.destination_port = tuple.source_port;
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    tuple.source = source?;
    tuple.destination = destination?;
    Some((tuple, protocol?))
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            std::array::from_fn(|word| {
                u32::from_ne_bytes(std::array::from_fn(|byte| octets[word * 4 + byte]))
            })
        }
    }
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute with its length, as netlink has it.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `NLA_F_NESTED`.
    const NESTED: u16 = 0x8000;

    fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let ips = [attribute(1, &from.0), attribute(2, &to.0)].concat();
        let ports = [
            attribute(1, &[17]),
            attribute(2, &from.1.to_be_bytes()),
            attribute(3, &to.1.to_be_bytes()),
        ]
        .concat();
        [attribute(1 | NESTED, &ips), attribute(2 | NESTED, &ports)].concat()
    }

    /// A message of conntrack: subsystem 1.
    fn message(kind: u8, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = ((20 + attributes.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend((1 << 8 | u16::from(kind)).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([2, 0, 0, 0]);
        bytes.extend(attributes);
        bytes
    }

    fn sample(kind: u8) -> Vec<u8> {
        let (pod, node, vm) = ([10, 244, 0, 15], [10, 224, 0, 4], [10, 224, 1, 2]);
        let attributes = [
            attribute(1 | NESTED, &udp((pod, 45_000), (vm, 53))),
            attribute(2 | NESTED, &udp((vm, 53), (node, 1024))),
            attribute(3, &0x18au32.to_be_bytes()),
            attribute(CTA_ID, &7u32.to_be_bytes()),
        ]
        .concat();
        message(kind, &attributes)
    }

    #[test]
    fn an_entry_is_read_whole() {
        let both = [sample(0), sample(2)].concat();
        let piece = Piece::decode(&both, false);
        let Ok([Change::New(entry), Change::Gone(gone)]) =
            piece.as_ref().map(|piece| &piece.changes[..])
        else {
            panic!("{piece:?}")
        };
        assert_eq!(entry, gone);
        assert_eq!(
            (entry.id, entry.nat.status, entry.nat.protocol),
            (7, 0x18a, 17)
        );
        assert_eq!(entry.nat.original.source, mapped([10, 244, 0, 15]));
        assert_eq!(entry.nat.original.destination_port, 53);
        assert_eq!(entry.nat.reply.destination, mapped([10, 224, 0, 4]));
        assert_eq!(entry.nat.reply.destination_port, 1024);
    }

    #[test]
    fn no_cut_is_a_panic_and_none_an_entry() {
        let whole = sample(0);
        for end in 0..whole.len() {
            let piece = Piece::decode(&whole[..end], false);
            assert!(
                piece.is_ok_and(|piece| piece.changes.is_empty() && !piece.last),
                "cut at {end}"
            );
        }
    }
}
