//! What few connections have: an inner packet, ICMP errors, fragments, VLAN tags.

use std::net::{IpAddr, SocketAddr};

use nodescope_ebpf::extra::{self, Extra, TAG};

use super::connection::{Connection, HopState};
use super::model::{Counts, Protocol, Tuple};
use super::tuple::ip;

/// What is said of a connection besides its traffic; all empty for most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// ICMP errors about it. They are in neither direction's traffic: an error is no answer.
    pub icmp_errors: Option<IcmpErrors>,
    /// Later fragments at the hop that saw most: the initiator's and the answer's. Each is a
    /// packet of the traffic.
    pub fragments: (u64, u64),
    /// What it carries.
    pub tunnel: Option<Tunnel>,
    /// Whether the Kubernetes API is served at the initiator's address, and at the other end's.
    pub api_server: (bool, bool),
}

/// ICMP errors about a connection at the hop that saw most of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpErrors {
    /// On their way to the initiator.
    pub to_initiator: Counts,
    /// On their way to the other end.
    pub to_responder: Counts,
    /// Type of the newest.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// Who sent it.
    pub from: IpAddr,
}

impl IcmpErrors {
    /// What the newest says, for people. (RFC 792, RFC 1812, RFC 4443.)
    pub fn message(&self) -> &'static str {
        let v4 = self.from.is_ipv4();
        match (v4, self.kind, self.code) {
            (true, 3, 0) => "net unreachable",
            (true, 3, 1) | (false, 1, 3) => "host unreachable",
            (true, 3, 2) => "protocol unreachable",
            (true, 3, 3) | (false, 1, 4) => "port unreachable",
            (true, 3, 4) => "fragmentation needed",
            (true, 3, 9 | 10 | 13) | (false, 1, 1) => "administratively prohibited",
            (true, 3, _) | (false, 1, _) => "destination unreachable",
            (false, 2, _) => "packet too big",
            (true, 4, _) => "source quench",
            (true, 5, _) => "redirect",
            (true, 11, 1) | (false, 3, 1) => "fragment reassembly time exceeded",
            (true, 11, _) | (false, 3, _) => "time to live exceeded",
            (true, 12, _) | (false, 4, _) => "parameter problem",
            _ => "icmp error",
        }
    }
}

/// A connection whose packets carry packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// How.
    pub encapsulation: Encapsulation,
    /// Network identifier, 24 bits.
    pub network: u32,
    /// The tuple inside its first packet; `None` when that is no IP.
    pub inner: Option<Tuple>,
}

/// Packets in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
}

impl Encapsulation {
    /// The word in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

impl HopState {
    /// ICMP errors from the key's `a`, and from `b`: the part of the counts that they are.
    pub fn errors(&self) -> [Counts; 2] {
        let errors = self.extra.as_deref().map(|extra| extra.errors);
        errors.unwrap_or_default().map(|counter| Counts {
            packets: counter.packets,
            bytes: counter.bytes,
        })
    }

    /// VLANs of its frames, the outer first.
    pub fn vlans(&self) -> Vec<u16> {
        let tags = self.extra.as_deref().map_or([0; 2], |extra| extra.tags);
        let there = tags.into_iter().filter(|tag| tag & TAG != 0);
        there.map(|tag| tag & 0x0fff).collect()
    }
}

impl Connection {
    /// What its hops have besides counts.
    pub fn notes(&self) -> Notes {
        let mut notes = Notes::default();
        for hop in &self.hops {
            let Some(extra) = hop.extra.as_deref() else {
                continue;
            };
            let from_a = self.initiator_is_a(hop);
            let both = |[ab, ba]: [u64; 2]| if from_a { (ab, ba) } else { (ba, ab) };
            let (forward, reply) = both(extra.fragments);
            notes.fragments.0 = notes.fragments.0.max(forward);
            notes.fragments.1 = notes.fragments.1.max(reply);
            let errors = icmp_errors(extra, hop.errors(), from_a);
            if let Some(errors) = errors
                && notes
                    .icmp_errors
                    .is_none_or(|known| errors.packets() > known.packets())
            {
                notes.icmp_errors = Some(errors);
            }
            notes.tunnel = notes.tunnel.or_else(|| tunnel(extra));
        }
        notes
    }

    /// Segments with a window of 0 at the hop that saw most: the initiator's and the answer's.
    pub fn zero_windows(&self) -> (u64, u64) {
        let mut most = (0, 0);
        for hop in &self.hops {
            let [ab, ba] = hop.extra.as_deref().map_or([0; 2], |e| e.zero_windows);
            let (forward, reply) = if self.initiator_is_a(hop) {
                (ab, ba)
            } else {
                (ba, ab)
            };
            most = (most.0.max(forward), most.1.max(reply));
        }
        most
    }
}

impl IcmpErrors {
    fn packets(&self) -> u64 {
        self.to_initiator.packets + self.to_responder.packets
    }
}

fn icmp_errors(extra: &Extra, [ab, ba]: [Counts; 2], initiator_is_a: bool) -> Option<IcmpErrors> {
    let (to_responder, to_initiator) = if initiator_is_a { (ab, ba) } else { (ba, ab) };
    (ab.packets + ba.packets > 0).then(|| IcmpErrors {
        to_initiator,
        to_responder,
        kind: extra.error_type,
        code: extra.error_code,
        from: ip(&extra.error_from),
    })
}

fn tunnel(extra: &Extra) -> Option<Tunnel> {
    let encapsulation = match extra::Encapsulation::of(extra.encapsulation)? {
        extra::Encapsulation::Vxlan => Encapsulation::Vxlan,
        extra::Encapsulation::Geneve => Encapsulation::Geneve,
    };
    let inner = &extra.inner;
    let there = inner.source != [0; 4] || inner.destination != [0; 4];
    Some(Tunnel {
        encapsulation,
        network: extra.network,
        inner: there.then(|| Tuple {
            source: SocketAddr::new(ip(&inner.source), inner.source_port),
            destination: SocketAddr::new(ip(&inner.destination), inner.destination_port),
            protocol: Protocol(extra.inner_protocol),
        }),
    })
}
