//! A flow gets its names: ends, service, class, scope, pods at the hops, cause of translation.

use crate::flow::{Direction, Flow, Hop, Identity, NatKind, ObjectName, Role};

use super::classify::{cause, class, scope};
use super::inventory::Inventory;
use super::local::Local;

/// Fills everything of `flow` that takes knowledge of the cluster: `source`, `destination`,
/// `destination_service`, `crossed_load_balancer`, `class`, `scope`, `nat.cause`, the
/// hops' `pod` and `notes.api_server`.
pub fn name(flow: &mut Flow, inventory: &Inventory, local: &Local) {
    // A TCP connection is with whoever had the address when it began: its last records come when
    // another pod may have it already. Datagrams between the same ports never end, and are with
    // whoever has it now.
    let at = if flow.tcp.is_some() {
        flow.started
    } else {
        flow.time
    };
    let (from, to) = (flow.tuple.source, flow.tuple.destination);
    let backend = flow.nat.translated.destination;

    flow.source = local.identify(inventory, from.ip(), at);
    flow.destination = local.identify(inventory, backend.ip(), at);
    // Whatever the API knows or not: what comes out of a pod's interface is a pod's, and what
    // goes into one is for a pod.
    if !flow.source.is_pod()
        && flow
            .hops
            .first()
            .is_some_and(|hop| is_pod_hop(hop, Direction::Ingress))
    {
        flow.source = Identity::UnknownPod;
    }
    if !flow.destination.is_pod()
        && flow
            .hops
            .last()
            .is_some_and(|hop| is_pod_hop(hop, Direction::Egress))
    {
        flow.destination = Identity::UnknownPod;
    }
    flow.notes.api_server = (
        inventory.is_api_server(from.ip()),
        inventory.is_api_server(backend.ip()),
    );
    flow.destination_service = local.service(inventory, to.ip(), to.port(), flow.tuple.protocol);
    flow.crossed_load_balancer = crossed_load_balancer(flow, inventory);

    flow.class = class(flow, inventory);
    flow.scope = scope(flow);
    flow.nat.cause = cause(flow);
    let source = here(&flow.source, local);
    let destination = here(&flow.destination, local);
    name_hops(&mut flow.hops, source, destination);
}

/// See [`Flow::crossed_load_balancer`].
fn crossed_load_balancer(flow: &Flow, inventory: &Inventory) -> Option<bool> {
    let service = inventory.service_named(flow.destination_service.as_ref()?)?;
    let to_balancer = service.external_ips.contains(&flow.tuple.destination.ip());
    let translated = matches!(flow.nat.kind, NatKind::Dnat | NatKind::Both);
    (to_balancer && translated).then_some(match flow.source {
        Identity::Pod(_) | Identity::UnknownPod | Identity::Node(_) => Some(false),
        Identity::World | Identity::Platform => Some(true),
        Identity::Service(_) | Identity::Unknown => None,
    })?
}

/// The first pod interface that the initiator's packets come in by is the source's, those that
/// they go out by are the destination's.
fn name_hops(hops: &mut [Hop], source: Option<ObjectName>, destination: Option<ObjectName>) {
    let mut source = source;
    for hop in hops.iter_mut() {
        hop.pod = None;
        if is_pod_hop(hop, Direction::Ingress) {
            hop.pod = source.take();
        } else if is_pod_hop(hop, Direction::Egress) {
            hop.pod.clone_from(&destination);
        }
    }
}

fn is_pod_hop(hop: &Hop, direction: Direction) -> bool {
    hop.role == Role::Pod && hop.direction == direction
}

/// The name of a pod on this node. One of which the API does not say where it is counts too: it
/// is known by its interface.
fn here(identity: &Identity, local: &Local) -> Option<ObjectName> {
    let pod = identity.pod()?;
    (*pod.node == *local.name() || pod.node.is_empty()).then(|| pod.name.clone())
}
