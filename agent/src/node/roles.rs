//! What each interface is for, from what it is rather than from its name.

use std::collections::BTreeMap;

use crate::flow::Role;

use super::filter::InterfaceFilter;
use super::interface::{Interface, Kind};
use super::view::NodeView;

/// Bridges that CNI plugins make before the first pod: covered while still empty.
const POD_BRIDGES: [&str; 2] = ["cbr0", "cni0"];

/// The interfaces to put hooks on, and what each is for.
///
/// - Uplink: interfaces of the default routes, whatever they are made of; see [`NodeView::uplinks`].
/// - Pod: a veth or netkit whose other end is in another network namespace, or is about to be moved
///   there (either end still down), unless an address with a subnet shows that it is the node's
///   own way out.
/// - Bridge: a bridge with pods on it, or an empty one that a CNI plugin is known to make.
/// - Tunnel: a VXLAN or Geneve device, by which packets leave for other nodes within packets of
///   the uplink.
/// - Other: named by `filter` and none of these.
///
/// What another device is made of (a bond's slaves, a virtual function beneath a paravirtual
/// `eth0`) has no role: its packets pass that device too, and are counted once. See
/// [`super::beneath`].
pub fn roles(view: &NodeView, filter: &InterfaceFilter) -> BTreeMap<u32, Role> {
    let mut roles = BTreeMap::new();
    for interface in view.interfaces.values() {
        let natural = natural_role(view, interface);
        let role = match natural {
            Some(role) if filter.allows_natural(&interface.name) => role,
            _ if filter.includes(&interface.name) => natural.unwrap_or(Role::Other),
            _ => continue,
        };
        roles.insert(interface.index, role);
    }
    roles
}

/// The role that an interface has without any configuration.
pub(super) fn natural_role(view: &NodeView, interface: &Interface) -> Option<Role> {
    if view.uplinks().any(|index| index == interface.index) {
        return Some(Role::Uplink);
    }
    if is_part(view, interface) {
        return None;
    }
    match interface.kind {
        kind if kind.is_pair() => is_pod_side(view, interface).then_some(Role::Pod),
        Kind::Bridge => {
            let mut ports = view.ports_of(interface.index).peekable();
            let empty = ports.peek().is_none();
            let named = POD_BRIDGES.contains(&&*interface.name);
            let pods = ports.any(|port| port.kind.is_pair() && is_pod_side(view, port));
            (pods || (empty && named)).then_some(Role::Bridge)
        }
        kind if kind.is_tunnel() => Some(Role::Tunnel),
        _ => None,
    }
}

/// Whether what this interface carries is another device's: a slave of a bond or team, or of a
/// device without `IFLA_INFO_KIND`, which is a driver's own (hv_netvsc, net_failover) with a
/// virtual function beneath it. Ports of bridges, of Open vSwitch (whose kind is `openvswitch`) and
/// members of a VRF are interfaces in their own right.
pub(super) fn is_part(view: &NodeView, interface: &Interface) -> bool {
    let master = interface
        .master
        .and_then(|index| view.interfaces.get(&index));
    master.is_some_and(|master| master.kind.is_aggregate() || master.kind == Kind::Device)
}

fn is_pod_side(view: &NodeView, interface: &Interface) -> bool {
    if interface.master.is_none() && has_subnet(view, interface.index) {
        return false;
    }
    if interface.peer_elsewhere {
        return true;
    }
    // Both ends here: one made before its peer is moved into the pod, unless both are in use.
    let peer = interface.link.and_then(|peer| view.interfaces.get(&peer));
    !interface.up || peer.is_none_or(|peer| !peer.up)
}

/// Whether the interface has an address with a subnet around it: the host side of a pod has
/// none, or the gateway's own /32 (the `ptp` plugin).
fn has_subnet(view: &NodeView, index: u32) -> bool {
    view.addresses_of(index).any(|net| match net {
        ipnet::IpNet::V4(net) => !net.addr().is_link_local() && net.prefix_len() < 31,
        ipnet::IpNet::V6(net) => !net.addr().is_unicast_link_local() && net.prefix_len() < 127,
    })
}
