//! Packets that died on this node, as a record.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use nodescope_ebpf::drop::DropKey;

use super::identity::Identity;
use super::model::Protocol;
use super::model::{
    Class, Counts, Direction, Event, Expected, Flow, Hop, Nat, NatCause, NatKind, Role, Traffic,
    Tuple,
};
use super::moment::Moment;
use super::tuple::{Conversation, ip};

/// Why and where packets died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drop {
    /// The kernel's word, for example `NETFILTER_DROP` (`enum skb_drop_reason` without its
    /// prefix); `UNKNOWN` on kernels that give none.
    pub reason: Arc<str>,
    /// The interface, by its name where it is; empty for a packet that had none yet.
    pub interface: Arc<str>,
    /// Whether that is inside a pod, and not on the node.
    pub in_pod: bool,
    /// Whether the interface had received the packet or was to send it.
    pub direction: Direction,
    /// The kernel's function, where the kernel shows its symbols.
    pub function: Option<Arc<str>>,
}

impl Drop {
    /// The place in words, for example `veth9423965c ingress` or `eth0 egress in the pod`.
    pub fn hook(&self) -> String {
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let interface = if self.interface.is_empty() {
            "no interface,"
        } else {
            &self.interface
        };
        let inside = if self.in_pod { " in the pod" } else { "" };
        format!("{interface} {direction}{inside}")
    }
}

/// What a record says of one kind of loss.
#[derive(Debug)]
pub struct Loss<'a> {
    /// Tuple and place.
    pub key: &'a DropKey,
    /// Nanoseconds (`CLOCK_MONOTONIC`) of the first.
    pub first_ns: u64,
    /// Since the last record, and since the first packet.
    pub counts: Traffic,
    /// Why and where.
    pub drop: Drop,
    /// The interface of the node that is nearest: name, index, what it is for.
    pub near: Option<(Arc<str>, u32, Role)>,
    /// The connection that the packets belong to, where it is known.
    pub connection: Option<u64>,
}

/// The conversation that packets belong to, as they were when they died.
pub fn conversation(key: &DropKey) -> Conversation {
    let (source, destination) = (
        (key.source, key.source_port),
        (key.destination, key.destination_port),
    );
    Conversation::of_ends(source, destination, key.protocol, key.kind)
}

/// The record. Identities and class are the cluster room's to fill. The initiator is the sender
/// of these packets, whoever opened their connection.
pub fn dropped(loss: Loss<'_>, node: &Arc<str>, now: Moment) -> Flow {
    let key = loss.key;
    let tuple = Tuple {
        source: (ip(&key.source), key.source_port).into(),
        destination: (ip(&key.destination), key.destination_port).into(),
        protocol: Protocol(key.protocol),
    };
    let direction = match (loss.drop.direction, loss.drop.in_pod) {
        // What a pod sends its interface on the node receives.
        (direction, false) => direction,
        (Direction::Egress, true) => Direction::Ingress,
        (Direction::Ingress, true) => Direction::Egress,
    };
    let hop = loss.near.map(|(interface, ifindex, role)| Hop {
        interface,
        ifindex,
        role,
        pod: None,
        direction,
        vlans: Vec::new(),
        forward: None,
        reply: None,
        errors: Default::default(),
        tuple: None,
    });
    let icmp = (key.kind == nodescope_ebpf::Kind::IcmpMessage as u8).then(|| {
        let [kind, code] = key.source_port.to_be_bytes();
        (kind, code)
    });
    Flow {
        time: now.wall,
        started: now.wall_of(loss.first_ns),
        started_ns: loss.first_ns,
        event: Event::Drop,
        connection: loss.connection.unwrap_or_else(|| id(key)),
        node: Arc::clone(node),
        tuple,
        class: Class::Other,
        scope: None,
        source: Identity::Unknown,
        destination: Identity::Unknown,
        destination_service: None,
        forward: loss.counts,
        reply: Traffic {
            delta: Counts::default(),
            total: Counts::default(),
        },
        tcp: None,
        echo_rtt: None,
        icmp_message: icmp,
        nat: Nat {
            kind: NatKind::None,
            original: tuple,
            translated: tuple,
            cause: NatCause::None,
            expected: Expected::Unknown,
            source: None,
        },
        expectation: None,
        remote_sees: tuple.source,
        hops: hop.into_iter().collect(),
        probe: None,
        notes: super::notes::Notes::default(),
        drop: Some(loss.drop),
        mark: None,
        crossed_load_balancer: None,
    }
}

/// An id for packets of no known connection; the highest bit keeps it apart from those.
fn id(key: &DropKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    conversation(key).hash(&mut hasher);
    hasher.finish() | 1 << 63
}
