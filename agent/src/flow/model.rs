//! The Flow: what nodescope says about one connection on one node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nodescope_ebpf::Counter;

use super::dropped::Drop;
use super::identity::{Identity, ObjectName};
use super::notes::Notes;
use super::probe::Probe;
use super::resume::Mark;

/// IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    /// Whether this is ICMP or ICMPv6, whose "ports" are the echo id.
    pub fn is_icmp(self) -> bool {
        self == Self::ICMP || self == Self::ICMPV6
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::ICMP => f.write_str("ICMPv4"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self::SCTP => f.write_str("SCTP"),
            Self(other) => write!(f, "{other}"),
        }
    }
}

/// A directed 5-tuple. ICMP echo carries its id as both ports; other ICMP its type and code
/// as `type << 8 | code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Who sends.
    pub source: SocketAddr,
    /// Who receives.
    pub destination: SocketAddr,
    /// IP protocol.
    pub protocol: Protocol,
}

impl Tuple {
    /// The tuple of the answer.
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ..self
        }
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} -> {}",
            self.protocol, self.source, self.destination
        )
    }
}

/// Packets on the wire and bytes as the interface counts them (link-layer header included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets; a packet that segmentation offload left whole counts as its segments.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<Counter> for Counts {
    fn from(counter: Counter) -> Self {
        Self {
            packets: counter.packets,
            bytes: counter.bytes,
        }
    }
}

impl From<Counts> for Counter {
    fn from(counts: Counts) -> Self {
        Self {
            packets: counts.packets,
            bytes: counts.bytes,
        }
    }
}

impl std::ops::Sub for Counts {
    type Output = Self;

    /// Saturates at zero: a record that began anew counts from there.
    fn sub(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}

/// One direction of a connection: what came since the last record, and since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Since the last record of this connection.
    pub delta: Counts,
    /// Since the start of the connection.
    pub total: Counts,
}

/// Why a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The connection's first record.
    Open,
    /// Traffic since the last record.
    Update,
    /// The connection's last record: closed or idle.
    Close,
    /// A packet was dropped.
    Drop,
}

/// What kind of ends a flow has. Service, NAT and scope are attributes, not classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Pod to pod.
    PodToPod,
    /// Pod to a node's own address.
    PodToNode,
    /// A node's own address to a pod.
    NodeToPod,
    /// Pod to anything outside the cluster.
    PodToWorld,
    /// Outside to pod.
    WorldToPod,
    /// Node to outside.
    NodeToWorld,
    /// Outside to node.
    WorldToNode,
    /// Node to node.
    NodeToNode,
    /// A load balancer's health probe.
    LbProbe,
    /// A kubelet's probe of a pod on its node.
    KubeletProbe,
    /// To or from the cloud platform's addresses.
    Platform,
    /// None of these, for example multicast or a service address that nothing answers for.
    #[default]
    Other,
}

/// Whether both pods are on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Both ends on this node.
    SameNode,
    /// One end on another node.
    CrossNode,
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The host side of a pod.
    Pod,
    /// A bridge whose ports are pods.
    Bridge,
    /// An interface of the default route.
    Uplink,
    /// A device by which packets leave for other nodes inside packets of the uplink.
    Tunnel,
    /// Named by the configuration.
    Other,
}

/// A direction as the interface on the node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Received by the interface.
    Ingress,
    /// Sent by the interface.
    Egress,
}

/// Where a connection passed, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface name.
    pub interface: Arc<str>,
    /// Interface index in the node's network namespace.
    pub ifindex: u32,
    /// What the interface is for.
    pub role: Role,
    /// The pod behind it, when it is the host side of one.
    pub pod: Option<ObjectName>,
    /// The direction in which the initiator's packets cross it.
    pub direction: Direction,
    /// VLANs of the frames here, the outer first.
    pub vlans: Vec<u16>,
    /// Initiator's packets, since the start; `None` for a bridge that forwarded the frames
    /// between its ports, which pass no hook of the bridge itself.
    pub forward: Option<Counts>,
    /// The answer's packets, since the start; `None` as for `forward`.
    pub reply: Option<Counts>,
    /// ICMP errors about the connection, which are in neither of the two: those on their way to
    /// the initiator and to the other end.
    pub errors: (Counts, Counts),
    /// The initiator's tuple here, where it differs from the original.
    pub tuple: Option<Tuple>,
}

/// What was translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatKind {
    /// Nothing.
    #[default]
    None,
    /// The initiator's address or port.
    Snat,
    /// The destination's address or port.
    Dnat,
    /// Both.
    Both,
}

/// Why it was translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatCause {
    /// Nothing was.
    #[default]
    None,
    /// The masquerade rule of kubenet or ip-masq-agent.
    Masquerade,
    /// kube-proxy's masquerade of service traffic (mark 0x4000).
    KubeProxyMasquerade,
    /// kube-proxy's choice of a backend.
    Service,
    /// A pod that reached itself through its own service.
    Hairpin,
    /// Some rule that nodescope does not know.
    Unknown,
}

/// What the masquerade configuration says about the initiator's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expected {
    /// It should be kept.
    Kept,
    /// It should be translated.
    Translated,
    /// The configuration is not known or does not say.
    #[default]
    Unknown,
}

/// Where the knowledge of a translation comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NatSource {
    /// The packet's own conntrack entry (`skb->_nfct`).
    #[default]
    Skb,
    /// Conntrack events over netlink.
    Netlink,
}

/// The translation of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// What was translated.
    pub kind: NatKind,
    /// The initiator's tuple before translation.
    pub original: Tuple,
    /// The initiator's tuple after translation, as the far end sees it.
    pub translated: Tuple,
    /// Why.
    pub cause: NatCause,
    /// What the configuration says.
    pub expected: Expected,
    /// How it is known; `None` while no hook has shown a conntrack entry.
    pub source: Option<NatSource>,
}

impl Nat {
    /// Whether the far end sees another address than the initiator's own. Another port alone is
    /// no masquerade: conntrack picks one where two connections would look the same.
    pub fn is_source_translated(&self) -> bool {
        self.original.source.ip() != self.translated.source.ip()
    }

    /// What conntrack shows of the initiator's address, for people.
    pub fn observed(&self) -> String {
        let (before, after) = (self.original.source, self.translated.source);
        match (self.source.is_some(), self.is_source_translated()) {
            (false, _) => "no conntrack entry was seen".to_owned(),
            (true, true) => format!("{before} was translated to {after}"),
            (true, false) if before == after => format!("{before} was kept"),
            (true, false) => format!("{before} was kept but for the port, now {}", after.port()),
        }
    }

    /// Whether conntrack shows something else than the configuration says.
    pub fn is_mismatch(&self) -> bool {
        let translated = self.is_source_translated();
        self.source.is_some()
            && match self.expected {
                Expected::Kept => translated,
                Expected::Translated => !translated,
                Expected::Unknown => false,
            }
    }
}

/// State of a TCP connection as both directions' flags show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// SYN seen, no answer yet.
    SynSent,
    /// SYN answered by SYN+ACK.
    SynReceived,
    /// Handshake done, or joined midway.
    #[default]
    Established,
    /// One side sent FIN.
    HalfClosed,
    /// Both sides sent FIN.
    Closed,
    /// One side sent RST.
    Reset,
    /// The SYN was answered by RST.
    Refused,
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Who opened it.
    Initiator,
    /// The other one.
    Responder,
}

/// What the TCP headers of a connection said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Its state.
    pub state: TcpState,
    /// From SYN to SYN+ACK, at the hop nearest to the initiator.
    pub handshake_rtt: Option<Duration>,
    /// Union of the initiator's flags (RFC 9293 order: FIN is 0x01, CWR 0x80).
    pub forward_flags: u8,
    /// Union of the answer's flags.
    pub reply_flags: u8,
    /// Who sent the first RST.
    pub reset_by: Option<End>,
    /// Segments sent again by the initiator's socket and by the other end's, as far as the socket
    /// is on this machine.
    pub retransmits: (u64, u64),
    /// Segments other than resets with a window of 0: the initiator's and the answer's.
    pub zero_windows: (u64, u64),
}

/// One record about one connection on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// When the record was made.
    pub time: SystemTime,
    /// When the connection was first seen on this node.
    pub started: SystemTime,
    /// The same as `CLOCK_MONOTONIC` nanoseconds, which no change of the clock moves.
    pub started_ns: u64,
    /// Why the record was made.
    pub event: Event,
    /// Stable id of the connection on this node.
    pub connection: u64,
    /// The node.
    pub node: Arc<str>,
    /// The initiator's original tuple (before any translation).
    pub tuple: Tuple,
    /// Kind of ends.
    pub class: Class,
    /// Same node or not; absent unless both ends are pods.
    pub scope: Option<Scope>,
    /// Owner of the initiator's address.
    pub source: Identity,
    /// Owner of the final destination (the backend, once a service address is translated).
    pub destination: Identity,
    /// The service that `tuple.destination` belongs to.
    pub destination_service: Option<ObjectName>,
    /// For a connection to an address of a load balancer that this node translated: whether it came
    /// through the load balancer. From inside the cluster it never does, for kube-proxy's rules
    /// translate it on the initiator's own node. `None` for everything else.
    pub crossed_load_balancer: Option<bool>,
    /// The initiator's packets.
    pub forward: Traffic,
    /// The answer's packets.
    pub reply: Traffic,
    /// TCP only.
    pub tcp: Option<Tcp>,
    /// ICMP echo only: time between a request and its answer, the newest.
    pub echo_rtt: Option<Duration>,
    /// ICMP that is no echo: type and code.
    pub icmp_message: Option<(u8, u8)>,
    /// Translation.
    pub nat: Nat,
    /// What `nat.expected` rests on, or why nothing can be said, for people; `None` for what no
    /// pod of this node opened.
    pub expectation: Option<Arc<str>>,
    /// The initiator as the far end sees it.
    pub remote_sees: SocketAddr,
    /// Hops in path order, the initiator's side first.
    pub hops: Vec<Hop>,
    /// What it says of a health probe, when it is one.
    pub probe: Option<Probe>,
    /// What few connections have.
    pub notes: Notes,
    /// Why and where packets died; the only record that has it is one of [`Event::Drop`].
    pub drop: Option<Drop>,
    /// How the connection is found again after a restart; nothing that is told.
    pub mark: Option<Mark>,
}
