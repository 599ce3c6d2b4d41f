//! The check of routes between nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Facts, Finding, ends};
use crate::flow::{Class, Direction, Flow, Hop, Role, Scope, TcpState};

/// A SYN without an answer for so long was sent again once already (RFC 6298: 1 s at first).
const SYN_PATIENCE: Duration = Duration::from_secs(2);

/// Whether a flow began so long ago.
pub(super) fn older(flow: &Flow, facts: &Facts<'_>, than: Duration) -> bool {
    let age = facts.now.monotonic_ns.saturating_sub(flow.started_ns);
    Duration::from_nanos(age) >= than
}

/// Whether a connection to another node was answered; `None` while that cannot be told.
fn answered(flow: &Flow, facts: &Facts<'_>) -> Option<bool> {
    if flow.reply.total.packets > 0 {
        return Some(true);
    }
    let silent = match flow.tcp {
        Some(tcp) => tcp.state == TcpState::SynSent,
        None => flow.tuple.protocol.is_icmp() && flow.icmp_message.is_none(),
    };
    (silent && older(flow, facts, SYN_PATIENCE)).then_some(false)
}

/// Pods here reach pods of every other node that they talk to.
pub(super) fn cross_node(facts: &Facts<'_>) -> Finding {
    let mut newest: BTreeMap<&str, (&Arc<Flow>, bool)> = BTreeMap::new();
    let from_here = |flow: &&Arc<Flow>| {
        let first = flow.hops.first();
        let from_pod =
            first.is_some_and(|hop| hop.role == Role::Pod && hop.direction == Direction::Ingress);
        flow.class == Class::PodToPod && flow.scope == Some(Scope::CrossNode) && from_pod
    };
    for flow in facts.flows.iter().filter(from_here) {
        let peer = flow.destination.pod().map_or("", |pod| &*pod.node);
        let peer = if peer.is_empty() {
            "another node"
        } else {
            peer
        };
        if let Some(answered) = answered(flow, facts) {
            // Oldest first: what was repaired, or broke, is told by the newest.
            newest.insert(peer, (flow, answered));
        }
    }
    let silent = newest.iter().find(|(_, (_, answered))| !answered);
    if let Some((peer, (flow, _))) = silent {
        let leaves = |hop: &&Hop| matches!(hop.role, Role::Uplink | Role::Tunnel);
        let uplink = flow.hops.iter().find(leaves);
        return Finding::fail(match uplink {
            Some(hop) => format!(
                "to {peer}: {} left by {} and was not answered; does the route table of the next \
                 hop send {} to {peer}? see nodescope path",
                ends(flow),
                hop.interface,
                range(flow, peer, facts)
            ),
            None => format!(
                "to {peer}: {} did not leave this node: look at its routes and policies",
                ends(flow)
            ),
        });
    }
    if newest.is_empty() {
        return Finding::unknown("no connection from a pod here to a pod of another node was seen");
    }
    let peers: Vec<String> = newest
        .iter()
        .map(|(peer, (flow, _))| format!("{peer} by {}", ends(flow)))
        .collect();
    Finding::pass(format!("answered: {}", peers.join(", ")))
}

/// The range that a route to the peer's pods is for.
fn range(flow: &Flow, peer: &str, facts: &Facts<'_>) -> String {
    let known = facts
        .inventory
        .node(peer)
        .and_then(|node| node.pod_cidrs.first().copied());
    known.map_or_else(
        || flow.nat.translated.destination.ip().to_string(),
        |cidr| cidr.to_string(),
    )
}
