//! Class, scope and cause of translation, from who the ends are.

use std::net::IpAddr;

use crate::flow::{Class, Direction, Flow, Identity, NatCause, NatKind, Role, Scope};

use super::inventory::{Inventory, is_platform};

/// The class of a flow whose ends are identified.
pub(super) fn class(flow: &Flow, inventory: &Inventory) -> Class {
    use Identity::{Node, Platform, Pod, Service, Unknown, UnknownPod, World};
    let source = flow.tuple.source.ip();
    if inventory.is_probe_source(source) {
        return Class::LbProbe;
    }
    let destination = flow.tuple.destination.ip();
    if is_platform(source) || is_platform(destination) {
        return Class::Platform;
    }
    if is_group(destination) {
        return Class::Other;
    }
    match (&flow.source, &flow.destination) {
        (Pod(_) | UnknownPod, Pod(_) | UnknownPod) => Class::PodToPod,
        (Pod(_) | UnknownPod, Node(_)) => Class::PodToNode,
        (Pod(_) | UnknownPod, World) => Class::PodToWorld,
        (Node(_), Pod(_) | UnknownPod) => Class::NodeToPod,
        (Node(_), Node(_)) => Class::NodeToNode,
        (Node(_), World) => Class::NodeToWorld,
        (World, Pod(_) | UnknownPod) => Class::WorldToPod,
        (World, Node(_)) => Class::WorldToNode,
        (Pod(_) | UnknownPod | Node(_) | World, Platform)
        | (Platform, Pod(_) | UnknownPod | Node(_) | World | Platform) => Class::Platform,
        (_, Service(_) | Unknown) | (Service(_) | Unknown, _) | (World, World) => Class::Other,
    }
}

/// Where two pods are: by the nodes that the API names, else by the hops.
pub(super) fn scope(flow: &Flow) -> Option<Scope> {
    if !flow.source.is_pod() || !flow.destination.is_pod() {
        return None;
    }
    if let (Some(source), Some(destination)) = (flow.source.pod(), flow.destination.pod()) {
        let same = source.node == destination.node;
        return Some(if same {
            Scope::SameNode
        } else {
            Scope::CrossNode
        });
    }
    let passes = |role, direction| {
        flow.hops
            .iter()
            .any(|hop| hop.role == role && hop.direction == direction)
    };
    if passes(Role::Pod, Direction::Ingress) && passes(Role::Pod, Direction::Egress) {
        return Some(Scope::SameNode);
    }
    flow.hops
        .iter()
        .any(|hop| matches!(hop.role, Role::Uplink | Role::Tunnel))
        .then_some(Scope::CrossNode)
}

/// Why the flow was translated, from what and between whom.
pub(super) fn cause(flow: &Flow) -> NatCause {
    let service = flow.destination_service.is_some();
    match flow.nat.kind {
        NatKind::None => NatCause::None,
        NatKind::Dnat if service => NatCause::Service,
        NatKind::Dnat => NatCause::Unknown,
        NatKind::Snat if flow.source.is_pod() && !flow.destination.is_pod() => NatCause::Masquerade,
        // A leg that another translation brought here can still be a node port's.
        NatKind::Snat if service => NatCause::KubeProxyMasquerade,
        NatKind::Snat => NatCause::Unknown,
        NatKind::Both if is_to_itself(flow) => NatCause::Hairpin,
        // Out of the pod range by way of a service without pods behind it: kube-proxy does not
        // mark what comes from pods, the masquerade rule of the node does it.
        NatKind::Both if service && flow.source.is_pod() && !flow.destination.is_pod() => {
            NatCause::Masquerade
        }
        NatKind::Both if service => NatCause::KubeProxyMasquerade,
        NatKind::Both => NatCause::Unknown,
    }
}

/// The backend is the initiator itself.
fn is_to_itself(flow: &Flow) -> bool {
    let same_address = flow.nat.original.source.ip() == flow.nat.translated.destination.ip();
    let same_pod = match (flow.source.pod(), flow.destination.pod()) {
        (Some(source), Some(destination)) => {
            source.uid == destination.uid && !source.uid.is_empty()
        }
        _ => false,
    };
    same_address || same_pod
}

/// Multicast, or the limited broadcast of IPv4.
fn is_group(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}
