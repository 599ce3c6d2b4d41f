//! Devices beneath those that have hooks: what they are, and where their packets are counted.

use std::collections::BTreeMap;

use crate::flow::Role;

use super::interface::{Interface, Kind};
use super::view::NodeView;

/// A device that carries another one's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beneath {
    /// Index of the device with the hooks.
    pub counted_at: u32,
    /// What it is to that one or to one in between, for people: `slave of bond0`.
    pub part: String,
}

/// The devices beneath the uplinks, by index: slaves of a bond or team, ports of a bridge that are
/// no pods, a virtual function beneath the paravirtual device that uses it, the device that a VLAN
/// or macvlan is on. `roles` is who has hooks: those are left out.
pub fn beneath(view: &NodeView, roles: &BTreeMap<u32, Role>) -> BTreeMap<u32, Beneath> {
    let mut found = BTreeMap::new();
    let uplinks = roles.iter().filter(|(_, role)| **role == Role::Uplink);
    for (uplink, _) in uplinks {
        let mut uppers = vec![*uplink];
        while let Some(upper) = uppers.pop().and_then(|index| view.interfaces.get(&index)) {
            for lower in view.interfaces.values() {
                let Some(part) = part_of(upper, lower) else {
                    continue;
                };
                if !roles.contains_key(&lower.index) && !found.contains_key(&lower.index) {
                    let counted_at = *uplink;
                    found.insert(lower.index, Beneath { counted_at, part });
                    uppers.push(lower.index);
                }
            }
        }
    }
    found
}

/// What `lower` is to `upper`; `None` when it is nothing to it.
fn part_of(upper: &Interface, lower: &Interface) -> Option<String> {
    let name = &upper.name;
    if lower.master == Some(upper.index) {
        return Some(match upper.kind {
            Kind::Bond | Kind::Team => format!("slave of {name}"),
            Kind::Bridge => format!("port of {name}"),
            // Accelerated networking: both have the same hardware address.
            Kind::Device if lower.mac == upper.mac => format!("virtual function of {name}"),
            _ => format!("part of {name}"),
        });
    }
    let on_it = upper.link == Some(lower.index) && !upper.kind.is_pair();
    on_it.then(|| format!("carries {name}"))
}

/// What people should know about the interfaces and their roles, one sentence each.
pub fn role_notes(view: &NodeView) -> Vec<String> {
    let mut notes = Vec::new();
    for index in &view.default_routes {
        let Some(interface) = view.interfaces.get(index) else {
            continue;
        };
        if interface.kind == Kind::Bridge || interface.kind.is_aggregate() {
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
        let former: Vec<_> = view.uplinks().map(|index| view.name_of(index)).collect();
        notes.push(match &*former {
            [] => "there is no default route: no interface counts as the uplink".to_owned(),
            names => format!(
                "there is no default route now: what had it still counts as the uplink ({})",
                names.join(", ")
            ),
        });
    }
    let shared = |found: &&Interface| matches!(found.kind, Kind::Ipvlan | Kind::Macvlan);
    for interface in view.interfaces.values().filter(shared) {
        notes.push(format!(
            "{} is a {}: what pods on others of its kind send to one another passes no interface of \
             the node, and is not seen",
            interface.name, interface.kind
        ));
    }
    notes
}
