//! The contract between the kernel side and the agent: every type that both read.
//!
//! `#[repr(C)]`, no pointers, no padding that carries meaning; sizes are asserted here, because
//! both sides and every pinned map depend on them. [`packet`] is the parser, free of eBPF, so
//! that it is tested on the host with the very code that runs in the kernel.

#![no_std]
#![forbid(unsafe_code)]

pub mod drop;
pub mod extra;
pub mod packet;
pub mod slots;

/// An IP address as four words in the byte order of the wire. IPv4 is mapped into IPv6
/// (RFC 4291 2.5.5.2), so that one key holds both families.
pub type Address = [u32; 4];

/// The third word of an IPv4-mapped address, as it lies in memory (`00 00 ff ff`).
pub const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Builds the mapped form of an IPv4 address.
#[inline(always)]
pub const fn mapped(octets: [u8; 4]) -> Address {
    [0, 0, MAPPED, u32::from_ne_bytes(octets)]
}

/// One conversation at one interface: the key of the `HOPS` map.
///
/// The ends are ordered (`a` is the smaller one), so both directions share a record.
/// `orientation` keeps apart the rare conversation whose packets of one direction cross an
/// interface both ways (a hairpin): with it each counter belongs to exactly one hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HopKey {
    /// Smaller end.
    pub a: Address,
    /// Larger end.
    pub b: Address,
    /// Port of `a` in host order; for ICMP see [`Kind`].
    pub a_port: u16,
    /// Port of `b` in host order.
    pub b_port: u16,
    /// Interface index.
    pub ifindex: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// What the ports are, a [`Kind`].
    pub kind: u8,
    /// 0: packets from `a` enter the node by this interface (ingress); 1: they leave (egress).
    pub orientation: u8,
    /// Always 0.
    pub reserved: u8,
}

const _: () = assert!(size_of::<HopKey>() == 44 && align_of::<HopKey>() == 4);

/// Meaning of a key's ports.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ports, or the echo identifier in both (RFC 792, RFC 4443), or zero where the protocol
    /// has none.
    Ports = 0,
    /// ICMP other than echo: `type << 8 | code` in both ports.
    IcmpMessage = 1,
}

/// Packets and bytes of one direction. A packet that segmentation offload left whole counts as
/// its segments; bytes are `skb->len`, link-layer header included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What an interface saw of one conversation: the value of the `HOPS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopRecord {
    /// From `a` to `b`.
    pub ab: Counter,
    /// From `b` to `a`.
    pub ba: Counter,
    /// `CLOCK_MONOTONIC` nanoseconds of the first packet.
    pub first_ns: u64,
    /// Nanoseconds of the newest echo request, or of the newest SYN before there was an answer; 0
    /// for none.
    pub request_ns: u64,
    /// Nanoseconds of the first SYN+ACK, or of the first echo reply after the request; 0 for none.
    pub answer_ns: u64,
    /// Union of the TCP flags of `a` (RFC 9293 header octet 13).
    pub ab_flags: u8,
    /// Union of the TCP flags of `b`.
    pub ba_flags: u8,
    /// Which end spoke first here: 0 for `a`, 1 for `b`. A SYN+ACK names its receiver.
    pub opener: u8,
    /// A [`NatState`].
    pub nat: u8,
    /// How often a SYN began the conversation anew after an end of it.
    pub incarnation: u8,
    /// The [round](rounds) in which the agent was told last that something changed.
    pub told: u8,
    /// How often the conntrack entry was looked for in vain.
    pub nat_tries: u8,
    /// Whether payload heads are wanted, and how many were sent: see [`wanted`].
    pub payload: u8,
    /// Set to 1 by a FIN of `a` and of `b`: written whole, so that two CPUs cannot lose one
    /// another's.
    pub ab_fin: u8,
    /// FIN of `b`.
    pub ba_fin: u8,
    /// RST of `a`: 1 when it was the first of the two ends to send one, 2 when `b` had.
    pub ab_rst: u8,
    /// RST of `b`.
    pub ba_rst: u8,
    /// How often its entry in `EXTRA` changed, so that it need not be read in vain; 0 as long as
    /// there is none.
    pub extra: u32,
}

const _: () = assert!(size_of::<HopRecord>() == 72 && align_of::<HopRecord>() == 8);

/// What is known of a conversation's translation.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatState {
    /// No conntrack entry seen yet.
    Unknown = 0,
    /// An entry without translation; `a` is the initiator.
    PlainFromA = 1,
    /// An entry without translation; `b` is the initiator.
    PlainFromB = 2,
    /// Translated: the tuples are in the `NAT` map under the same key.
    Translated = 3,
    /// The packets carry no entry (untracked, or conntrack is off): not looked for again.
    Untracked = 4,
    /// Translated, but the `NAT` map was full.
    Lost = 5,
}

impl NatState {
    /// Reads the byte of a record; an unknown value is `Unknown`.
    pub const fn of(byte: u8) -> Self {
        match byte {
            1 => Self::PlainFromA,
            2 => Self::PlainFromB,
            3 => Self::Translated,
            4 => Self::Untracked,
            5 => Self::Lost,
            _ => Self::Unknown,
        }
    }
}

/// One side of a conntrack entry: a directed tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NatTuple {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port in host order (the echo identifier for ICMP).
    pub source_port: u16,
    /// Destination port in host order (the echo identifier for ICMP).
    pub destination_port: u16,
}

/// A translated conversation's conntrack entry: the value of the `NAT` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatRecord {
    /// `tuplehash[IP_CT_DIR_ORIGINAL]`: the initiator before translation.
    pub original: NatTuple,
    /// `tuplehash[IP_CT_DIR_REPLY]`: the answer as it arrives.
    pub reply: NatTuple,
    /// `nf_conn.status` (`enum ip_conntrack_status`, uapi nf_conntrack_common.h).
    pub status: u32,
    /// Conntrack zone.
    pub zone: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub reserved: u8,
}

const _: () = assert!(size_of::<NatRecord>() == 80 && align_of::<NatRecord>() == 4);

/// Why a packet is in no record.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Not IP (ARP, LLDP, …).
    NotIp = 0,
    /// The frame ends inside a header.
    Truncated = 1,
    /// A header contradicts itself.
    Malformed = 2,
    /// A later fragment whose first one was not seen: nothing says which ports it has.
    Fragment = 3,
    /// More IPv6 extension headers in front of the transport header than are looked behind.
    Extension = 4,
    /// The `HOPS` map is full.
    TableFull = 5,
    /// A frame for another host, seen because the interface is promiscuous: a bridge's copy of
    /// a frame that it forwarded between its ports, for example.
    OtherHost = 6,
    /// A tag in the frame that is not looked behind: MPLS, or a third VLAN tag.
    Tagged = 7,
    /// Not packets of their own: segments beyond the first of offloaded packets, which a record
    /// counts and the interface does not.
    Offload = 8,
    /// At a bridge's egress, and yet on its way between two ports: br_netfilter resolves the
    /// neighbour of a translated destination by way of the bridge's own queue, and takes the
    /// packet back before the bridge counts it (net/bridge/br_netfilter_hooks.c, `bridged_dnat`).
    Bridged = 9,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NotIp,
        Self::Truncated,
        Self::Malformed,
        Self::Fragment,
        Self::Extension,
        Self::TableFull,
        Self::OtherHost,
        Self::Tagged,
        Self::Offload,
        Self::Bridged,
    ];

    /// The word in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Extension => "extension_header",
            Self::TableFull => "map_full",
            Self::OtherHost => "other_host",
            Self::Tagged => "tagged",
            Self::Offload => "offload",
            Self::Bridged => "bridged",
        }
    }
}

/// Key of the `UNATTRIBUTED` map: one hook and one reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnattributedKey {
    /// Interface index.
    pub ifindex: u32,
    /// 0 ingress, 1 egress.
    pub egress: u8,
    /// A [`Reason`].
    pub reason: u8,
    /// Always 0.
    pub reserved: u16,
}

const _: () = assert!(size_of::<UnattributedKey>() == 8);

/// A conversation began: what the `EVENTS` ring carries. The record itself is in `HOPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenEvent {
    /// Its key.
    pub key: HopKey,
    /// An [`EventKind`].
    pub kind: u32,
}

const _: () = assert!(size_of::<OpenEvent>() == 48);

/// What happened to a record, and the index of the `LOST` counter when the ring was full.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The record is new.
    Open = 0,
    /// Its translation became known.
    Nat = 1,
    /// A FIN or RST came.
    Ending = 2,
    /// The head of a payload; it has a ring of its own.
    Payload = 3,
    /// Something for the `EXTRA` map, which was full. No event of the ring.
    Extra = 4,
    /// Segments for the `RETRANSMITS` map, which was full. No event of the ring.
    Retransmit = 5,
}

impl EventKind {
    /// How many there are.
    pub const COUNT: u32 = 6;

    /// The word in metrics.
    pub const NAMES: [&'static str; Self::COUNT as usize] =
        ["open", "nat", "ending", "payload", "extra", "retransmit"];
}

/// Rounds of reading. The agent begins one before it reads what changed in the round before; the
/// kernel side tells of a record once a round, the first time that it changes.
///
/// A packet is counted before the round is looked up, so one that was told of in the round before
/// is counted before the agent reads the record. (Where the processor may exchange the two, as on
/// arm64, the agent finds the packet when it reads all records, some rounds later.)
pub mod rounds {
    /// The one after this: 1 to 255, so that 0 is none.
    pub const fn after(round: u8) -> u8 {
        match round.checked_add(1) {
            Some(next) => next,
            None => 1,
        }
    }
}

/// The byte `payload` of a [`HopRecord`]: 0 for almost all conversations.
pub mod wanted {
    /// The heads of its payload are wanted.
    pub const YES: u8 = 1;
    /// Unit of the number of heads sent of `a`'s packets: bits 1 to 3.
    pub const AB_ONE: u8 = 1 << 1;
    /// Unit of the number of heads sent of `b`'s packets: bits 4 to 6.
    pub const BA_ONE: u8 = 1 << 4;
    /// Mask of a number, after it is shifted down.
    pub const MASK: u8 = 7;
    /// So many heads are sent for each direction of a connection: an HTTP answer has its status
    /// in the first, a gRPC answer comes after the SETTINGS and their acknowledgement.
    pub const MOST: u8 = 4;
}

/// Bytes of a packet's payload that are sent at most: status line, headers and body of a
/// kube-proxy health answer with the longest names that Kubernetes allows.
pub const HEAD: usize = 512;

/// Where DNS servers listen (RFC 1035, 4.2).
pub const DNS_PORT: u16 = 53;

/// Bytes of a DNS answer that are sent: its header, which has the response code and no name
/// (RFC 1035, 4.1.1).
pub const DNS_HEAD: usize = 12;

/// Bytes of it that are sent where questions are wanted: the first one is whole in them, for a name
/// has 255 bytes at most (RFC 1035, 2.3.4), before its type and its class.
pub const DNS_QUESTION: usize = DNS_HEAD + 255 + 4;
const _: () = assert!(DNS_QUESTION <= HEAD);

/// Key of the `PROBE_PORTS` map: an end whose conversations' payload is wanted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeKey {
    /// Address of the end.
    pub address: Address,
    /// Its port in host order; 0 for what holds of the address whatever the port.
    pub port: u16,
    /// Always 0.
    pub reserved: u16,
}

const _: () = assert!(size_of::<ProbeKey>() == 20 && align_of::<ProbeKey>() == 4);

/// Value of the `PROBE_PORTS` map (as `u32`).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeEnd {
    /// Everything from and to this address: a source of load-balancer probes.
    Source = 1,
    /// Everything to this address and port: one that answers health checks.
    Port = 2,
    /// What comes to this address and port from a [`ProbeEnd::Node`]: a container's probe port.
    PodPort = 3,
    /// One of the node's own addresses.
    Node = 4,
}

/// The head of a packet's payload: what the `PAYLOAD` ring carries.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PayloadEvent {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// The conversation at the hook that saw it.
    pub key: HopKey,
    /// TCP sequence number of the first byte.
    pub sequence: u32,
    /// Bytes of payload in the packet.
    pub length: u32,
    /// Bytes in `head` that are the payload's.
    pub captured: u16,
    /// 1 when the sender is the key's `a`.
    pub from_a: u8,
    /// Always 0.
    pub reserved: u8,
    /// The first bytes.
    pub head: [u8; HEAD],
}

const _: () = assert!(size_of::<PayloadEvent>() == 64 + HEAD && align_of::<PayloadEvent>() == 8);

/// Offsets of the running kernel's structures, from its BTF; zero-sized use when `enabled` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `sk_buff._nfct`.
    pub nfct: u32,
    /// `nf_conn.tuplehash`.
    pub tuplehash: u32,
    /// `nf_conn.status`.
    pub status: u32,
    /// `nf_conn.zone.id`; 0 where the kernel has no zones.
    pub zone: u32,
    /// 1 when the others hold.
    pub enabled: u32,
}

/// The frame of the program `take`, which takes a record out: bytes 0 to 15 are nobody's.
pub mod taking {
    use super::{HopKey, HopRecord};

    /// Where the key is.
    pub const KEY: usize = 16;
    /// Where the record is put.
    pub const RECORD: usize = 64;
    /// Length of the frame.
    pub const LENGTH: usize = RECORD + size_of::<HopRecord>();

    const _: () = assert!(KEY + size_of::<HopKey>() <= RECORD);
}
