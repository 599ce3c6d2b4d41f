//! A flow as cells of a table.

use crate::sink::observer::structs::{self, Fields};
use crate::sink::proto::flow::{Endpoint, Flow, Verdict, layer4};
use crate::sink::proto::observer::GetFlowsResponse;

use super::fit::Column;
use super::{notes, time};

/// How a line stands out on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Names of the columns.
    Header,
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// A translated initiator.
    Translated,
    /// Nobody answered.
    Unanswered,
    /// Dropped or reset.
    Bad,
}

impl Tone {
    /// The parameter of the terminal's "select graphic rendition" (ECMA-48 section 8.3.117).
    pub fn sgr(self) -> &'static str {
        match self {
            Self::Header => "1",
            Self::Plain => "",
            Self::Good => "32",
            Self::Translated => "36",
            Self::Unanswered => "33",
            Self::Bad => "31",
        }
    }
}

/// The cells.
#[derive(Debug)]
pub struct Row {
    time: String,
    /// The node.
    pub node: String,
    /// Initiator.
    pub source: String,
    /// Destination, and the service it was asked for as.
    pub destination: String,
    /// Kind of ends.
    pub class: String,
    protocol: String,
    nat: String,
    packets: String,
    bytes: String,
    event: String,
    /// What became of the traffic.
    pub verdict: &'static str,
    more: Vec<String>,
    /// How it stands out.
    pub tone: Tone,
}

const NONE: &str = "-";

impl Row {
    /// The columns: those that `-o wide` adds come last. Time, both ends, protocol and translation
    /// stay.
    pub fn columns(wide: bool) -> &'static [Column] {
        const COLUMNS: [Column; 18] = [
            Column::new("TIME(UTC)"),
            Column::new("NODE").cut(12).leave(12),
            Column::new("SOURCE").cut(20),
            Column::new("DESTINATION").cut(20),
            Column::new("CLASS").leave(10),
            Column::new("PROTO"),
            Column::new("NAT/REMOTE-SEES").cut(22),
            Column::new("PACKETS").leave(11),
            Column::new("BYTES").leave(9),
            Column::new("EVENT").leave(6),
            Column::new("SCOPE").leave(5),
            Column::new("STATE").leave(8),
            Column::new("RTT").leave(7),
            Column::new("EXPECTED").leave(4),
            Column::new("LB").leave(3),
            Column::new("HOPS").cut(16).leave(2),
            Column::new("CONNECTION").leave(1),
            Column::new("NOTES").cut(16),
        ];
        if wide { &COLUMNS } else { &COLUMNS[..10] }
    }

    /// Reads the cells of a flow.
    pub fn new(response: &GetFlowsResponse, flow: &Flow) -> Self {
        let fields = flow
            .extensions
            .as_ref()
            .and_then(structs::unpack)
            .unwrap_or_default();
        let word = |path: &[&str]| {
            structs::text(&fields, path)
                .filter(|word| !word.is_empty())
                .unwrap_or(NONE)
                .to_owned()
        };
        let node = if flow.node_name.is_empty() {
            &response.node_name
        } else {
            &flow.node_name
        };
        let verdict = flow.verdict();
        Self {
            time: time::short(response.time.as_ref().or(flow.time.as_ref())),
            node: if node.is_empty() {
                NONE.to_owned()
            } else {
                node.clone()
            },
            source: source(flow),
            destination: destination(flow, &fields),
            class: word(&["class"]),
            protocol: protocol(flow).to_owned(),
            nat: nat(&fields),
            packets: both_ways(&fields, "packets_total"),
            bytes: both_ways(&fields, "bytes_total"),
            event: word(&["event"]),
            verdict: verdict.as_str_name(),
            more: vec![
                word(&["scope"]),
                word(&["tcp", "state"]),
                rtt(&fields),
                word(&["nat", "expected"]),
                balancer(&fields).unwrap_or(NONE).to_owned(),
                hops(&fields),
                word(&["connection"]),
                match notes::of(&fields) {
                    notes if notes.is_empty() => NONE.to_owned(),
                    notes => notes.join(", "),
                },
            ],
            tone: tone(verdict, &fields),
        }
    }

    /// The cells, as many as there are columns.
    pub fn cells(&self, wide: bool) -> Vec<&str> {
        let Self {
            time,
            node,
            source,
            destination,
            class,
            protocol,
            nat,
            ..
        } = self;
        let mut cells: Vec<&str> = vec![
            time,
            node,
            source,
            destination,
            class,
            protocol,
            nat,
            &self.packets,
            &self.bytes,
            &self.event,
        ];
        if wide {
            cells.extend(self.more.iter().map(String::as_str));
        }
        cells
    }
}

/// The initiator with its port.
pub(super) fn source(flow: &Flow) -> String {
    let address = flow.ip.as_ref().map_or("", |ip| &ip.source);
    end(
        flow.source.as_ref(),
        &flow.source_names,
        address,
        ports(flow).map(|(source, _)| source),
    )
}

/// The destination with its port, and the service it was asked for as.
pub(super) fn destination(flow: &Flow, fields: &Fields) -> String {
    let address = flow.ip.as_ref().map_or("", |ip| &ip.destination);
    let port = ports(flow).map(|(_, destination)| destination);
    let mut text = end(
        flow.destination.as_ref(),
        &flow.destination_names,
        address,
        port,
    );
    if let Some(service) = &flow.destination_service {
        text.push_str(&format!(" (svc {}/{}", service.namespace, service.name));
        let asked = structs::number(fields, &["nat", "original", "dport"]);
        if let Some(asked) = asked.filter(|_| port.is_some()) {
            text.push_str(&format!(":{asked}"));
        }
        text.push(')');
    }
    text
}

/// `namespace/pod:port`, else a DNS name, else the address.
fn end(owner: Option<&Endpoint>, names: &[String], address: &str, port: Option<u32>) -> String {
    let pod = owner.filter(|owner| !owner.pod_name.is_empty());
    let host = match (pod, names.first()) {
        (Some(pod), _) => format!("{}/{}", pod.namespace, pod.pod_name),
        (None, Some(name)) => name.clone(),
        (None, None) if address.contains(':') && port.is_some() => format!("[{address}]"),
        (None, None) if address.is_empty() => "?".to_owned(),
        (None, None) => address.to_owned(),
    };
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

fn ports(flow: &Flow) -> Option<(u32, u32)> {
    use layer4::Protocol as L4;
    match flow.l4.as_ref()?.protocol.as_ref()? {
        L4::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
        L4::Udp(udp) => Some((udp.source_port, udp.destination_port)),
        L4::Sctp(sctp) => Some((sctp.source_port, sctp.destination_port)),
        L4::IcmPv4(_) | L4::IcmPv6(_) => None,
    }
}

/// Name of the protocol.
pub(super) fn protocol(flow: &Flow) -> &str {
    use layer4::Protocol as L4;
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(L4::Tcp(_)) => "TCP",
        Some(L4::Udp(_)) => "UDP",
        Some(L4::Sctp(_)) => "SCTP",
        Some(L4::IcmPv4(_)) => "ICMPv4",
        Some(L4::IcmPv6(_)) => "ICMPv6",
        None => NONE,
    }
}

/// The translation, its cause, and the initiator as the far end sees it.
fn nat(fields: &Fields) -> String {
    let socket = |ip: &[&str], port: &[&str]| {
        let ip = structs::text(fields, ip).unwrap_or("?");
        let port = structs::number(fields, port).unwrap_or_default();
        if ip.contains(':') {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        }
    };
    let seen = || socket(&["remote_sees", "ip"], &["remote_sees", "port"]);
    let asked = || socket(&["nat", "original", "dst"], &["nat", "original", "dport"]);
    let cause = structs::text(fields, &["nat", "cause"]).unwrap_or(NONE);
    match structs::text(fields, &["nat", "kind"]) {
        Some("snat") => format!("snat {} {cause}", seen()),
        Some("dnat") => format!("dnat {} {cause}", asked()),
        Some("both") => format!("snat {} dnat {} {cause}", seen(), asked()),
        // Not translated, or nobody could tell.
        Some("none") if structs::text(fields, &["nat", "source"]).is_some() => NONE.to_owned(),
        _ => "?".to_owned(),
    }
}

/// `forward/reply`, since the start of the connection.
fn both_ways(fields: &Fields, what: &str) -> String {
    let count = |way| structs::number(fields, &[way, what]);
    match (count("forward"), count("reply")) {
        (Some(forward), Some(reply)) => format!("{forward}/{reply}"),
        _ => NONE.to_owned(),
    }
}

/// Whether it came through the load balancer whose address was asked for.
pub(super) fn balancer(fields: &Fields) -> Option<&'static str> {
    structs::flag(fields, &["crossed_load_balancer"])
        .map(|crossed| if crossed { "crossed" } else { "not crossed" })
}

fn rtt(fields: &Fields) -> String {
    let seconds = structs::number(fields, &["tcp", "handshake_rtt_seconds"])
        .or_else(|| structs::number(fields, &["icmp", "echo_rtt_seconds"]));
    seconds.map_or_else(
        || NONE.to_owned(),
        |seconds| format!("{:.3}ms", seconds * 1000.0),
    )
}

fn hops(fields: &Fields) -> String {
    let names: Vec<_> = structs::list(fields, &["hops"])
        .iter()
        .filter_map(structs::fields)
        .filter_map(|hop| structs::text(hop, &["interface"]))
        .collect();
    if names.is_empty() {
        NONE.to_owned()
    } else {
        names.join(">")
    }
}

fn tone(verdict: Verdict, fields: &Fields) -> Tone {
    let translated = matches!(
        structs::text(fields, &["nat", "kind"]),
        Some("snat" | "both")
    );
    let state = structs::text(fields, &["tcp", "state"]);
    let closed = structs::text(fields, &["event"]) == Some("close");
    match state {
        _ if verdict == Verdict::Dropped => Tone::Bad,
        Some("reset" | "refused") => Tone::Bad,
        Some("syn-sent") if closed => Tone::Unanswered,
        _ if translated => Tone::Translated,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
