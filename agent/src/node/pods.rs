//! Which interface a pod's address is behind, and the other way round.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::interface::Kind;
use super::view::NodeView;

/// The host-side interface of the pod that has this address: by its own /32 (or /128) route
/// where pods are routed, else by its neighbour entry and where the bridge learned that
/// hardware address. `None` when the node has not had to do with the address yet.
pub fn pod_interface(view: &NodeView, ip: IpAddr) -> Option<u32> {
    if view.is_own_address(ip) {
        return None;
    }
    let host = view.routes.iter().find(|route| {
        route.gateway.is_none()
            && route.destination.addr() == ip
            && route.destination.prefix_len() == route.destination.max_prefix_len()
    });
    if let Some(route) = host {
        return Some(route.ifindex);
    }
    let start = view.neighbours.partition_point(|entry| entry.ip < ip);
    let known = view.neighbours[start..]
        .iter()
        .take_while(|entry| entry.ip == ip);
    known
        .filter_map(|entry| behind(view, entry.ifindex, entry.mac?))
        .next()
}

/// All addresses that [`pod_interface`] finds an interface for, by that interface.
pub fn pods_by_interface(view: &NodeView) -> BTreeMap<u32, Vec<IpAddr>> {
    let routed = view
        .routes
        .iter()
        .filter(|route| route.destination.prefix_len() == route.destination.max_prefix_len());
    let mut candidates: Vec<IpAddr> = routed.map(|route| route.destination.addr()).collect();
    candidates.extend(view.neighbours.iter().map(|entry| entry.ip));
    candidates.sort_unstable();
    candidates.dedup();
    let is_uplink = |index: u32| view.uplinks().any(|uplink| uplink == index);
    let mut pods: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    for ip in candidates {
        let Some(index) = pod_interface(view, ip) else {
            continue;
        };
        let is_pair = view
            .interfaces
            .get(&index)
            .is_some_and(|found| found.kind.is_pair());
        if is_pair && !is_uplink(index) && !is_link_local(ip) {
            pods.entry(index).or_default().push(ip);
        }
    }
    pods
}

/// The port of the bridge `ifindex` that leads to `mac`, or `ifindex` itself when it is one of a pair.
fn behind(view: &NodeView, ifindex: u32, mac: [u8; 6]) -> Option<u32> {
    let interface = view.interfaces.get(&ifindex)?;
    match interface.kind {
        Kind::Veth | Kind::Netkit => Some(ifindex),
        Kind::Bridge => {
            let start = view.fdb.partition_point(|entry| entry.mac < mac);
            let entries = view.fdb[start..]
                .iter()
                .take_while(|entry| entry.mac == mac);
            let on_bridge = |port: u32| {
                view.interfaces
                    .get(&port)
                    .is_some_and(|found| found.master == Some(ifindex))
            };
            entries
                .map(|entry| entry.port)
                .find(|port| on_bridge(*port))
        }
        _ => None,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
