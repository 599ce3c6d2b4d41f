//! A flow as the Hubble record of it.

use prost_types::Timestamp;

use super::{extension, identity, reason, summary, uuid};
use crate::flow::{Direction, Event, Flow, Hop, Identity, NatKind, Protocol, Role};
use crate::sink::proto::flow as proto;
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// Event types of the Hubble API.
pub mod event_type {
    /// A packet was dropped.
    pub const DROP: i32 = 1;
    /// A packet was seen.
    pub const TRACE: i32 = 4;
}

/// ICMP echo request (RFC 792) and ICMPv6 echo request (RFC 4443).
const ECHO_REQUEST: u32 = 8;
const ECHO_REQUEST_V6: u32 = 128;

/// The record of a flow, as streams and the flow log carry it.
pub fn response(flow: &Flow) -> GetFlowsResponse {
    GetFlowsResponse {
        node_name: flow.node.to_string(),
        time: Some(Timestamp::from(flow.time)),
        response_types: Some(ResponseTypes::Flow(record(flow))),
    }
}

/// The Hubble flow.
pub fn record(flow: &Flow) -> proto::Flow {
    let dropped = flow.event == Event::Drop;
    let reason = flow.drop.as_ref().map(|drop| reason::of(&drop.reason));
    let reason = reason.unwrap_or_default();
    let (point, sub_type) = observation(flow);
    let last = flow.hops.last();
    let api_server = flow.notes.api_server;
    proto::Flow {
        time: Some(Timestamp::from(flow.time)),
        verdict: if dropped {
            proto::Verdict::Dropped
        } else {
            proto::Verdict::Forwarded
        }
        .into(),
        ip: Some(ip(flow)),
        l4: layer4(flow),
        source: Some(identity::endpoint(&flow.source, &flow.node, api_server.0)),
        destination: Some(identity::endpoint(
            &flow.destination,
            &flow.node,
            api_server.1,
        )),
        r#type: proto::FlowType::L3L4.into(),
        node_name: flow.node.to_string(),
        event_type: Some(proto::CiliumEventType {
            r#type: if dropped {
                event_type::DROP
            } else {
                event_type::TRACE
            },
            sub_type: if dropped { reason.into() } else { sub_type },
        }),
        drop_reason_desc: reason.into(),
        destination_service: flow
            .destination_service
            .as_ref()
            .map(|service| proto::Service {
                name: service.name.clone(),
                namespace: service.namespace.clone(),
            }),
        traffic_direction: traffic_direction(&flow.hops).into(),
        trace_observation_point: point.into(),
        // Of a packet that died only its own direction is known.
        is_reply: (!dropped).then_some(false),
        interface: last.map(|hop| proto::NetworkInterface {
            index: hop.ifindex,
            name: hop.interface.to_string(),
        }),
        emitter: Some(proto::Emitter {
            name: "nodescope".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        uuid: uuid::of(flow),
        summary: summary::of(flow),
        extensions: Some(extension::of(flow)),
        ..proto::Flow::default()
    }
}

/// Source before translation, destination after it.
fn ip(flow: &Flow) -> proto::Ip {
    let version = if flow.tuple.source.is_ipv4() {
        proto::IpVersion::IPv4
    } else {
        proto::IpVersion::IPv6
    };
    let translated = matches!(flow.nat.kind, NatKind::Snat | NatKind::Both)
        .then(|| flow.nat.translated.source.ip().to_string());
    proto::Ip {
        source: flow.tuple.source.ip().to_string(),
        destination: final_destination(flow).ip().to_string(),
        ip_version: version.into(),
        encrypted: false,
        source_xlated: translated.unwrap_or_default(),
    }
}

/// Where the initiator's packets end up: the backend, once a service address is translated.
pub fn final_destination(flow: &Flow) -> std::net::SocketAddr {
    match flow.nat.kind {
        NatKind::Dnat | NatKind::Both => flow.nat.translated.destination,
        NatKind::None | NatKind::Snat => flow.tuple.destination,
    }
}

fn layer4(flow: &Flow) -> Option<proto::Layer4> {
    use proto::layer4::Protocol as L4;
    let source_port = u32::from(flow.tuple.source.port());
    let destination_port = u32::from(final_destination(flow).port());
    let protocol = match flow.tuple.protocol {
        Protocol::TCP => L4::Tcp(proto::Tcp {
            source_port,
            destination_port,
            flags: flow.tcp.as_ref().map(|tcp| flags(tcp.forward_flags)),
        }),
        Protocol::UDP => L4::Udp(proto::Udp {
            source_port,
            destination_port,
        }),
        Protocol::SCTP => L4::Sctp(proto::Sctp {
            source_port,
            destination_port,
        }),
        Protocol::ICMP => {
            let (r#type, code) = icmp(flow, ECHO_REQUEST);
            L4::IcmPv4(proto::IcmPv4 { r#type, code })
        }
        Protocol::ICMPV6 => {
            let (r#type, code) = icmp(flow, ECHO_REQUEST_V6);
            L4::IcmPv6(proto::IcmPv6 { r#type, code })
        }
        _ => return None,
    };
    Some(proto::Layer4 {
        protocol: Some(protocol),
    })
}

/// Type and code. Echo has its id as both ports of the tuple, other messages `type << 8 | code`
/// as the destination's.
fn icmp(flow: &Flow, echo: u32) -> (u32, u32) {
    flow.icmp_message
        .map_or((echo, 0), |(kind, code)| (u32::from(kind), u32::from(code)))
}

fn flags(flags: u8) -> proto::TcpFlags {
    let bit = |index: u8| flags & (1 << index) != 0;
    proto::TcpFlags {
        fin: bit(0),
        syn: bit(1),
        rst: bit(2),
        psh: bit(3),
        ack: bit(4),
        urg: bit(5),
        ece: bit(6),
        cwr: bit(7),
        ns: false,
    }
}

/// Out of a pod of this node (or of the node) is egress, into it ingress.
fn traffic_direction(hops: &[Hop]) -> proto::TrafficDirection {
    let (Some(first), Some(last)) = (hops.first(), hops.last()) else {
        return proto::TrafficDirection::Unknown;
    };
    match (first.role, first.direction, last.role, last.direction) {
        (Role::Pod, Direction::Ingress, ..) => proto::TrafficDirection::Egress,
        (.., Role::Pod, Direction::Egress) => proto::TrafficDirection::Ingress,
        (.., Direction::Egress) => proto::TrafficDirection::Egress,
        (.., Direction::Ingress) => proto::TrafficDirection::Ingress,
    }
}

/// Where the initiator's packets were last seen on this node, and its number as the sub-type
/// of a trace event.
fn observation(flow: &Flow) -> (proto::TraceObservationPoint, i32) {
    use proto::TraceObservationPoint as Point;
    let Some(last) = flow.hops.last() else {
        return (Point::UnknownPoint, 0);
    };
    let to_node = matches!(flow.destination, Identity::Node(_));
    match (last.role, last.direction) {
        (Role::Pod, Direction::Egress) => (Point::ToEndpoint, 0),
        (Role::Pod, Direction::Ingress) if to_node => (Point::ToHost, 2),
        (Role::Pod, Direction::Ingress) => (Point::FromEndpoint, 5),
        (Role::Tunnel, Direction::Egress) => (Point::ToOverlay, 4),
        (Role::Tunnel, Direction::Ingress) => (Point::FromOverlay, 9),
        (Role::Uplink, Direction::Egress) => (Point::ToNetwork, 11),
        (Role::Uplink, Direction::Ingress) => (Point::FromNetwork, 10),
        (Role::Bridge | Role::Other, _) if to_node => (Point::ToHost, 2),
        (Role::Bridge | Role::Other, _) => (Point::ToStack, 3),
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
