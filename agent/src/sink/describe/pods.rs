//! The way from each pod of the node to its host interface: what `brctl show`, `ip route`,
//! `arp -a` and `nsenter … ip addr` say together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use crate::cluster::Inventory;
use crate::flow::ObjectName;
use crate::node::{self, NeighbourState, NodeView, Route};
use crate::sink::proto::node::PodPath;

/// All pods of the node with an address of their own, by name: those that the API lists, and
/// addresses behind a pod interface that it does not.
pub(super) fn paths(view: &NodeView, inventory: &Inventory, node: &str) -> Vec<PodPath> {
    let mut pods: BTreeMap<IpAddr, ObjectName> = BTreeMap::new();
    for pod in inventory.pods_on(node) {
        for ip in &pod.ips {
            pods.insert(*ip, pod.name.clone());
        }
    }
    let now = SystemTime::now();
    for ip in node::pods_by_interface(view).into_values().flatten() {
        pods.entry(ip).or_insert_with(|| {
            let known = inventory.pod_at(ip, now);
            known.map(|pod| pod.name.clone()).unwrap_or_default()
        });
    }
    let mut pods: Vec<_> = pods.into_iter().collect();
    pods.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
    pods.into_iter()
        .map(|(ip, name)| path(view, ip, name))
        .collect()
}

fn path(view: &NodeView, ip: IpAddr, name: ObjectName) -> PodPath {
    let index = node::pod_interface(view, ip);
    let interface = index.and_then(|index| view.interfaces.get(&index));
    let neighbour = view.neighbours.iter().find(|entry| entry.ip == ip);
    let name_of = |index: u32| view.name_of(index).to_string();
    PodPath {
        namespace: name.namespace,
        name: name.name,
        ip: ip.to_string(),
        interface: interface.map_or_else(String::new, |found| found.name.to_string()),
        index: interface.map_or(0, |found| found.index),
        peer_index: interface.and_then(|found| found.link).unwrap_or(0),
        bridge: interface
            .and_then(|found| found.master)
            .map_or_else(String::new, name_of),
        mac: neighbour
            .and_then(|entry| entry.mac)
            .map_or_else(String::new, mac),
        neighbour: neighbour.map_or_else(String::new, |entry| state(entry.state).to_owned()),
        neighbour_interface: neighbour.map_or_else(String::new, |entry| name_of(entry.ifindex)),
        route: route(view, ip).map_or_else(String::new, |route| describe(view, &route)),
    }
}

/// The route that packets to the address take: the longest prefix, then the lowest metric.
fn route(view: &NodeView, ip: IpAddr) -> Option<Route> {
    let fits = view
        .routes
        .iter()
        .filter(|route| route.destination.contains(&ip));
    fits.max_by_key(|route| {
        (
            route.destination.prefix_len(),
            std::cmp::Reverse(route.metric),
        )
    })
    .copied()
}

fn describe(view: &NodeView, route: &Route) -> String {
    let to = match route.destination.prefix_len() {
        0 => "default".to_owned(),
        _ => route.destination.to_string(),
    };
    let via = route
        .gateway
        .map_or_else(String::new, |gateway| format!(" via {gateway}"));
    format!("{to}{via} dev {}", view.name_of(route.ifindex))
}

fn mac(mac: [u8; 6]) -> String {
    let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn state(state: NeighbourState) -> &'static str {
    match state {
        NeighbourState::Incomplete => "incomplete",
        NeighbourState::Reachable => "reachable",
        NeighbourState::Stale => "stale",
        NeighbourState::Probing => "probing",
        NeighbourState::Failed => "failed",
        NeighbourState::Permanent => "permanent",
    }
}
