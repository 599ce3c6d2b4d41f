//! From the contract's keys to tuples that have a direction, and back to an order without one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nodescope_ebpf::{Address, HopKey, Kind, NatRecord, NatTuple, packet::ordered};

use super::model::{Protocol, Tuple};

/// A conversation without direction and interface: the ends in the contract's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversation {
    a: Address,
    b: Address,
    a_port: u16,
    b_port: u16,
    protocol: u8,
    /// The ports are type and code of an ICMP message. Not the contract's number: a table of these
    /// keeps its vacancies in what a `bool` cannot be.
    icmp_message: bool,
}

impl Conversation {
    /// What a hop's key is about.
    pub fn of_key(key: &HopKey) -> Self {
        Self {
            a: key.a,
            b: key.b,
            a_port: key.a_port,
            b_port: key.b_port,
            protocol: key.protocol,
            icmp_message: key.kind == Kind::IcmpMessage as u8,
        }
    }

    /// What a conntrack tuple is about.
    pub fn of_nat(tuple: &NatTuple, protocol: u8) -> Self {
        let source = (tuple.source, tuple.source_port);
        let destination = (tuple.destination, tuple.destination_port);
        Self::of_ends(source, destination, protocol, 0)
    }

    /// What packets from one end to another are about; `kind` is a [`nodescope_ebpf::Kind`].
    pub fn of_ends(
        source: (Address, u16),
        destination: (Address, u16),
        protocol: u8,
        kind: u8,
    ) -> Self {
        let forward = ordered(&source.0, source.1, &destination.0, destination.1);
        let ((a, a_port), (b, b_port)) = if forward {
            (source, destination)
        } else {
            (destination, source)
        };
        Self {
            a,
            b,
            a_port,
            b_port,
            protocol,
            icmp_message: kind == Kind::IcmpMessage as u8,
        }
    }

    /// The key of this conversation at an interface.
    pub(super) fn key(&self, ifindex: u32, orientation: u8) -> HopKey {
        HopKey {
            a: self.a,
            b: self.b,
            a_port: self.a_port,
            b_port: self.b_port,
            ifindex,
            protocol: self.protocol,
            kind: u8::from(self.icmp_message),
            orientation,
            reserved: 0,
        }
    }

    /// Both ends, the smaller one first.
    pub(super) fn ends(&self) -> [(Address, u16); 2] {
        [(self.a, self.a_port), (self.b, self.b_port)]
    }

    /// The smaller end.
    pub fn a(&self) -> SocketAddr {
        SocketAddr::new(ip(&self.a), self.a_port)
    }

    /// The larger end.
    pub fn b(&self) -> SocketAddr {
        SocketAddr::new(ip(&self.b), self.b_port)
    }

    /// With a direction: from `a` to `b`, or the other way.
    pub fn directed(&self, from_a: bool) -> Tuple {
        let (source, destination) = if from_a {
            (self.a(), self.b())
        } else {
            (self.b(), self.a())
        };
        Tuple {
            source,
            destination,
            protocol: Protocol(self.protocol),
        }
    }

    /// Whether the ports are no ports but type and code of an ICMP message.
    pub fn is_icmp_message(&self) -> bool {
        self.icmp_message
    }
}

/// An address of the contract: IPv4 where it is mapped.
pub fn ip(address: &Address) -> IpAddr {
    let mut octets = [0; 16];
    for (word, bytes) in address.iter().zip(octets.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// A conntrack tuple as one of the model's.
pub fn tuple(nat: &NatTuple, protocol: u8) -> Tuple {
    Tuple {
        source: SocketAddr::new(ip(&nat.source), nat.source_port),
        destination: SocketAddr::new(ip(&nat.destination), nat.destination_port),
        protocol: Protocol(protocol),
    }
}

/// The initiator's tuples before and after translation.
pub fn translation(record: &NatRecord) -> (Tuple, Tuple) {
    let original = tuple(&record.original, record.protocol);
    let translated = tuple(&record.reply, record.protocol).reversed();
    (original, translated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodescope_ebpf::mapped;

    #[test]
    fn both_directions_are_one_conversation() {
        let there = NatTuple {
            source: mapped([10, 244, 0, 15]),
            destination: mapped([10, 224, 1, 2]),
            source_port: 60996,
            destination_port: 8080,
        };
        let back = NatTuple {
            source: there.destination,
            destination: there.source,
            source_port: there.destination_port,
            destination_port: there.source_port,
        };
        assert_eq!(
            Conversation::of_nat(&there, 6),
            Conversation::of_nat(&back, 6)
        );
        assert_eq!(
            tuple(&there, 6).to_string(),
            "TCP 10.244.0.15:60996 -> 10.224.1.2:8080"
        );
    }

    #[test]
    fn ipv6_stays_ipv6() {
        let address = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let words: Address = std::array::from_fn(|at| {
            u32::from_ne_bytes(std::array::from_fn(|byte| address[at * 4 + byte]))
        });
        assert_eq!(ip(&words).to_string(), "2001:db8::1");
    }
}
