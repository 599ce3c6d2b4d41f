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
/// - Uplink: interfaces of the default routes, whatever they are made of.
/// - Pod: a veth whose other end is in another network namespace, or is about to be moved there
///   (either end still down), unless an address with a subnet shows that it is the node's own
///   way out.
/// - Bridge: a bridge with pods on it, or an empty one that a CNI plugin is known to make.
/// - Other: named by `filter` and none of these.
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

/// What people should know about the roles found, one sentence each.
pub fn role_notes(view: &NodeView) -> Vec<String> {
    let mut notes = Vec::new();
    for index in &view.default_routes {
        let Some(interface) = view.interfaces.get(index) else {
            continue;
        };
        if matches!(interface.kind, Kind::Bridge | Kind::Bond) {
            let ports: Vec<&str> = view.ports_of(*index).map(|port| &*port.name).collect();
            notes.push(format!(
                "the default route leaves by the {} {} (ports: {}): packets are counted there, not at its ports",
                interface.kind,
                interface.name,
                ports.join(", "),
            ));
        }
    }
    if view.default_routes.is_empty() {
        notes.push("there is no default route: no interface counts as the uplink".to_owned());
    }
    notes
}

/// The role that an interface has without any configuration.
pub(super) fn natural_role(view: &NodeView, interface: &Interface) -> Option<Role> {
    if view.default_routes.contains(&interface.index) {
        return Some(Role::Uplink);
    }
    match interface.kind {
        Kind::Veth if is_pod_side(view, interface) => Some(Role::Pod),
        Kind::Bridge => {
            let mut ports = view.ports_of(interface.index).peekable();
            let empty = ports.peek().is_none();
            let named = POD_BRIDGES.contains(&&*interface.name);
            let pods = ports.any(|port| port.kind == Kind::Veth && is_pod_side(view, port));
            (pods || (empty && named)).then_some(Role::Bridge)
        }
        _ => None,
    }
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
