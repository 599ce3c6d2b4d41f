//! One node's part of a connection, read from its newest record.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::{notes, path_lost, row};
use crate::sink::observer::structs::{self, Fields};
use crate::sink::proto::flow::Flow;
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// The ends of a tuple, the initiator's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Who sends.
    pub source: SocketAddr,
    /// Who receives.
    pub destination: SocketAddr,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// An interface that the connection passed.
#[derive(Clone, Debug)]
pub struct LegHop {
    /// Its name.
    pub interface: String,
    /// What it is for: pod, bridge, uplink or other.
    pub role: String,
    /// Whether the initiator's packets left the node's stack by it (else they came in).
    pub egress: bool,
    /// The pod behind it.
    pub pod: Option<String>,
    /// The initiator's packets and the answer's; `None` for a bridge between its ports.
    pub counts: Option<(Counts, Counts)>,
    /// The initiator's tuple here.
    pub tuple: Pair,
}

/// A translation as the record tells it.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// none, snat, dnat or both.
    pub kind: String,
    /// Why.
    pub cause: String,
    /// What the masquerade configuration says.
    pub expected: String,
}

/// One node's part of a connection.
#[derive(Clone, Debug)]
pub struct Leg {
    /// The node.
    pub node: String,
    /// Id of the connection on this node.
    pub connection: String,
    /// When it was first seen there.
    pub started: SystemTime,
    /// When the newest record was made.
    pub time: SystemTime,
    /// TCP, UDP…
    pub protocol: String,
    /// Kind of ends.
    pub class: String,
    /// The initiator by name and port.
    pub source: String,
    /// The destination by name and port, with the service.
    pub destination: String,
    /// The node that the destination's pod is on, where it is known.
    pub destination_node: Option<String>,
    /// Namespace and name of the service that was asked for.
    pub service: Option<String>,
    /// State of a TCP connection.
    pub state: Option<String>,
    /// Whether the answer said RST and never SYN.
    pub refused: bool,
    /// Before translation on this node.
    pub original: Pair,
    /// After it: what the next node gets.
    pub translated: Pair,
    /// What was translated, and why.
    pub nat: Translation,
    /// Whether it came through the load balancer whose address was asked for: `crossed` or
    /// `not crossed`.
    pub balancer: Option<&'static str>,
    /// The initiator's packets, and the answer's, since the start.
    pub totals: (Counts, Counts),
    /// What few connections have: a tunnel's inner packet, ICMP errors, and so on.
    pub notes: Vec<String>,
    /// In path order.
    pub hops: Vec<LegHop>,
}

impl Leg {
    /// Reads a record; `None` when it is no flow of nodescope's, or about packets that died.
    pub fn read(response: &GetFlowsResponse) -> Option<Self> {
        let Some(ResponseTypes::Flow(flow)) = &response.response_types else {
            return None;
        };
        if path_lost::is_loss(flow) {
            return None;
        }
        let fields = flow.extensions.as_ref().and_then(structs::unpack)?;
        let original = pair(structs::at(&fields, &["nat", "original"]).and_then(structs::fields)?)?;
        let translated = structs::at(&fields, &["nat", "translated"]).and_then(structs::fields);
        let time = SystemTime::try_from(response.time.or(flow.time)?).ok()?;
        let started = structs::text(&fields, &["started"])
            .and_then(|text| text.parse::<prost_types::Timestamp>().ok())
            .and_then(|at| SystemTime::try_from(at).ok());
        let word = |path: &[&str]| structs::text(&fields, path).map(str::to_owned);
        let nat = |key| word(&["nat", key]).unwrap_or_else(|| "unknown".to_owned());
        Some(Self {
            node: node(response, flow),
            connection: word(&["connection"])?,
            started: started.unwrap_or(time),
            time,
            protocol: row::protocol(flow).to_owned(),
            class: word(&["class"]).unwrap_or_default(),
            source: row::source(flow),
            destination: row::destination(flow, &fields),
            destination_node: word(&["destination_node"]),
            service: flow
                .destination_service
                .as_ref()
                .map(|service| format!("{}/{}", service.namespace, service.name)),
            state: word(&["tcp", "state"]),
            refused: refused(&fields),
            original,
            translated: translated.and_then(pair).unwrap_or(original),
            nat: Translation {
                kind: nat("kind"),
                cause: nat("cause"),
                expected: nat("expected"),
            },
            balancer: row::balancer(&fields),
            totals: (
                counts(&fields, ["forward", "packets_total"], "bytes_total"),
                counts(&fields, ["reply", "packets_total"], "bytes_total"),
            ),
            notes: notes::of(&fields),
            hops: structs::list(&fields, &["hops"])
                .iter()
                .filter_map(structs::fields)
                .map(|fields| hop(fields, original))
                .collect(),
        })
    }

    /// Whether the packets went on to another machine.
    pub fn leaves(&self) -> bool {
        let last = self.hops.last();
        last.is_some_and(|hop| hop.egress && hop.role != "pod")
    }

    /// Whether the packets came from another machine.
    pub fn arrives(&self) -> bool {
        let first = self.hops.first();
        first.is_some_and(|hop| !hop.egress && hop.role != "pod")
    }

    /// The newest hop that counted packets of the initiator.
    pub fn last_seen(&self) -> Option<&LegHop> {
        let saw = |hop: &&LegHop| hop.counts.is_some_and(|(forward, _)| forward.packets > 0);
        self.hops.iter().rfind(saw)
    }

    /// The first hop, in path order, that counted packets of the answer.
    pub fn answer_seen(&self) -> Option<&LegHop> {
        let saw = |hop: &&LegHop| hop.counts.is_some_and(|(_, reply)| reply.packets > 0);
        self.hops.iter().find(saw)
    }
}

fn node(response: &GetFlowsResponse, flow: &Flow) -> String {
    if flow.node_name.is_empty() {
        response.node_name.clone()
    } else {
        flow.node_name.clone()
    }
}

fn refused(fields: &Fields) -> bool {
    let flags = structs::list(fields, &["tcp", "flags", "reply"]);
    let has = |name: &str| {
        flags
            .iter()
            .any(|flag| matches!(&flag.kind, Some(prost_types::value::Kind::StringValue(f)) if f == name))
    };
    has("RST") && !has("SYN")
}

/// A tuple of the record.
fn pair(fields: &Fields) -> Option<Pair> {
    let end = |ip: &str, port: &str| {
        let ip: IpAddr = structs::text(fields, &[ip])?.parse().ok()?;
        let port = u16::try_from(whole(structs::number(fields, &[port])?)).ok()?;
        Some(SocketAddr::new(ip, port))
    };
    Some(Pair {
        source: end("src", "sport")?,
        destination: end("dst", "dport")?,
    })
}

fn counts(fields: &Fields, [way, packets]: [&str; 2], bytes: &str) -> Counts {
    let count = |what| whole(structs::number(fields, &[way, what]).unwrap_or_default());
    Counts {
        packets: count(packets),
        bytes: count(bytes),
    }
}

fn hop(fields: &Fields, original: Pair) -> LegHop {
    let word = |key| structs::text(fields, &[key]).unwrap_or_default().to_owned();
    let number = |key| structs::number(fields, &[key]).map(whole);
    let both = |packets, bytes| {
        Some(Counts {
            packets: number(packets)?,
            bytes: number(bytes)?,
        })
    };
    let here = structs::at(fields, &["tuple"]).and_then(structs::fields);
    LegHop {
        interface: word("interface"),
        role: word("role"),
        egress: word("direction") == "egress",
        pod: structs::text(fields, &["pod"]).map(str::to_owned),
        counts: both("packets", "bytes").zip(both("reply_packets", "reply_bytes")),
        tuple: here.and_then(pair).unwrap_or(original),
    }
}

/// A count, which a `Struct` holds as a double.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates; exact to 2^53"
)]
fn whole(number: f64) -> u64 {
    number as u64
}
