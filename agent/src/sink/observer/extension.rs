//! `flow.extensions`: what the Hubble record has no field for, as a `google.protobuf.Struct`.
//!
//! The keys are those of the flow record. Numbers travel as doubles, which are exact up to
//! 2^53 packets or bytes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use prost_types::{Any, Timestamp, Value};

use super::notes;
use super::structs::{Fields, IntoValue as _, number, pack, put, text};
use crate::flow::{Drop, Flow, Hop, Probe, ProbeStatus, Tcp, Traffic, Tuple};
use crate::sink::names;

/// The extensions of a flow.
pub fn of(flow: &Flow) -> Any {
    let mut fields = Fields::new();
    put(&mut fields, "event", names::event(flow.event));
    put(
        &mut fields,
        "connection",
        format!("{:016x}", flow.connection),
    );
    put(
        &mut fields,
        "started",
        Timestamp::from(flow.started).to_string(),
    );
    put(&mut fields, "class", names::class(flow.class));
    if let Some(scope) = flow.scope {
        put(&mut fields, "scope", names::scope(scope));
    }
    if let Some(pod) = flow.destination.pod().filter(|pod| !pod.node.is_empty()) {
        put(&mut fields, "destination_node", &*pod.node);
    }
    put(&mut fields, "forward", traffic(&flow.forward));
    put(&mut fields, "reply", traffic(&flow.reply));
    if let Some(state) = &flow.tcp {
        put(&mut fields, "tcp", tcp(state));
    }
    if let Some(rtt) = flow.echo_rtt {
        let mut icmp = Fields::new();
        put(&mut icmp, "echo_rtt_seconds", seconds(rtt));
        put(&mut fields, "icmp", icmp);
    }
    put(&mut fields, "nat", nat(flow));
    if let Some(crossed) = flow.crossed_load_balancer {
        put(&mut fields, "crossed_load_balancer", crossed);
    }
    put(&mut fields, "remote_sees", socket(flow.remote_sees));
    put(
        &mut fields,
        "hops",
        flow.hops.iter().map(hop).collect::<Vec<_>>(),
    );
    if let Some(of) = &flow.probe {
        put(&mut fields, "probe", probe(of));
    }
    notes::add(&mut fields, flow);
    if let Some(of) = &flow.drop {
        put(&mut fields, "drop", lost(of));
    }
    pack(fields)
}

fn lost(drop: &Drop) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "reason", drop.reason.to_string());
    put(&mut fields, "hook", drop.hook());
    put(&mut fields, "interface", drop.interface.to_string());
    put(&mut fields, "direction", names::direction(drop.direction));
    if let Some(function) = &drop.function {
        put(&mut fields, "function", function.to_string());
    }
    fields
}

fn probe(probe: &Probe) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "kind", probe.kind.name());
    if let Some(service) = &probe.service {
        put(&mut fields, "service", service.to_string());
    }
    if let Some(container) = &probe.container {
        put(&mut fields, "container", container.clone());
    }
    put(&mut fields, "port", f64::from(probe.port));
    if let Some(path) = &probe.path {
        put(&mut fields, "path", path.clone());
    }
    if let Some(result) = probe.result {
        put(&mut fields, "result", result.name());
    }
    match probe.status {
        Some(ProbeStatus::Http(code)) => put(&mut fields, "status", f64::from(code)),
        Some(other) => put(&mut fields, "status", other.to_string()),
        None => {}
    }
    if let Some(endpoints) = probe.local_endpoints {
        put(&mut fields, "local_endpoints", count(endpoints));
    }
    if let Some(latency) = probe.latency {
        put(&mut fields, "latency_seconds", seconds(latency));
    }
    fields
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a Struct has no other numbers; exact to 2^53"
)]
pub(super) fn count(number: u64) -> f64 {
    number as f64
}

/// Whole nanoseconds as seconds, so that 0.0012 does not print as 0.0011999999.
fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn traffic(traffic: &Traffic) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "packets", count(traffic.delta.packets));
    put(&mut fields, "bytes", count(traffic.delta.bytes));
    put(&mut fields, "packets_total", count(traffic.total.packets));
    put(&mut fields, "bytes_total", count(traffic.total.bytes));
    fields
}

fn tcp(tcp: &Tcp) -> Fields {
    let mut flags = Fields::new();
    put(&mut flags, "forward", flag_list(tcp.forward_flags));
    put(&mut flags, "reply", flag_list(tcp.reply_flags));
    let mut fields = Fields::new();
    put(&mut fields, "state", names::tcp_state(tcp.state));
    if let Some(rtt) = tcp.handshake_rtt {
        put(&mut fields, "handshake_rtt_seconds", seconds(rtt));
    }
    put(&mut fields, "flags", flags);
    if let Some(end) = tcp.reset_by {
        put(&mut fields, "reset_by", names::end(end));
    }
    let (forward, reply) = tcp.retransmits;
    put(&mut fields, "retransmits", count(forward + reply));
    if forward + reply > 0 {
        put(&mut fields, "retransmitted", notes::both(tcp.retransmits));
    }
    if tcp.zero_windows != (0, 0) {
        put(&mut fields, "zero_windows", notes::both(tcp.zero_windows));
    }
    fields
}

fn flag_list(flags: u8) -> Vec<Value> {
    names::tcp_flags(flags)
        .map(|name| name.into_value())
        .collect()
}

fn nat(flow: &Flow) -> Fields {
    let nat = &flow.nat;
    let mut fields = Fields::new();
    put(&mut fields, "kind", names::nat_kind(nat.kind));
    put(&mut fields, "original", tuple(&nat.original));
    put(&mut fields, "translated", tuple(&nat.translated));
    put(&mut fields, "cause", names::nat_cause(nat.cause));
    put(&mut fields, "expected", names::expected(nat.expected));
    if let Some(source) = nat.source {
        put(&mut fields, "source", names::nat_source(source));
    }
    if let Some(because) = &flow.expectation {
        put(&mut fields, "because", because.to_string());
        if nat.is_mismatch() {
            let mut sides = Fields::new();
            put(&mut sides, "configured", because.to_string());
            put(&mut sides, "observed", nat.observed());
            put(&mut fields, "mismatch", sides);
        }
    }
    fields
}

pub(super) fn tuple(tuple: &Tuple) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "src", tuple.source.ip().to_string());
    put(&mut fields, "sport", f64::from(tuple.source.port()));
    put(&mut fields, "dst", tuple.destination.ip().to_string());
    put(&mut fields, "dport", f64::from(tuple.destination.port()));
    fields
}

fn socket(address: SocketAddr) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "ip", address.ip().to_string());
    put(&mut fields, "port", f64::from(address.port()));
    fields
}

fn hop(hop: &Hop) -> Value {
    let mut fields = Fields::new();
    put(&mut fields, "interface", hop.interface.to_string());
    put(&mut fields, "ifindex", f64::from(hop.ifindex));
    put(&mut fields, "role", names::role(hop.role));
    if let Some(pod) = &hop.pod {
        put(&mut fields, "pod", pod.to_string());
    }
    put(&mut fields, "direction", names::direction(hop.direction));
    if let Some(forward) = hop.forward {
        put(&mut fields, "packets", count(forward.packets));
        put(&mut fields, "bytes", count(forward.bytes));
    }
    if let Some(reply) = hop.reply {
        put(&mut fields, "reply_packets", count(reply.packets));
        put(&mut fields, "reply_bytes", count(reply.bytes));
    }
    if let Some(there) = &hop.tuple {
        put(&mut fields, "tuple", tuple(there));
    }
    notes::add_to_hop(&mut fields, hop);
    fields.into_value()
}

/// An end of a translation tuple: `path` leads to the tuple, `end` is `s` or `d`.
fn end(fields: &Fields, tuple: &str, ip: &str, port: &str) -> Option<(IpAddr, u16)> {
    let address = text(fields, &["nat", tuple, ip])?.parse().ok()?;
    let port = number(fields, &["nat", tuple, port])?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates"
    )]
    Some((address, port as u16))
}

/// The initiator before and after translation.
pub fn nat_sources(fields: &Fields) -> impl Iterator<Item = (IpAddr, u16)> {
    ["original", "translated"]
        .into_iter()
        .filter_map(|tuple| end(fields, tuple, "src", "sport"))
}

/// The destination before and after translation.
pub fn nat_destinations(fields: &Fields) -> impl Iterator<Item = (IpAddr, u16)> {
    ["original", "translated"]
        .into_iter()
        .filter_map(|tuple| end(fields, tuple, "dst", "dport"))
}
