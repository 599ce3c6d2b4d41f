//! The interfaces: those with hooks, and the devices beneath them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use crate::cluster::Inventory;
use crate::engine::{HookStatus, InterfaceStatus, Status};
use crate::flow::Role;
use crate::node::{self, Beneath, NodeView};
use crate::sink::names;
use crate::sink::proto::node::{HookCounts, Interface, PodAddress};

/// Those with hooks or that should have them, then those that carry their packets.
pub(super) fn all(status: &Status, view: &NodeView, inventory: &Inventory) -> Vec<Interface> {
    let behind = node::pods_by_interface(view);
    let hooked = status
        .interfaces
        .iter()
        .map(|one| interface(one, view, &behind, inventory));
    let lower = node::beneath(view, &roles(status));
    let lower = lower
        .iter()
        .map(|(index, device)| beneath(*index, device, view));
    hooked.chain(lower).collect()
}

/// What people should know about them.
pub(super) fn notes(
    status: &Status,
    view: &NodeView,
    inventory: &Inventory,
    node: &str,
) -> Vec<String> {
    let mut notes = node::role_notes(view);
    let pods = inventory.pods_on(node).filter(|pod| !pod.ips.is_empty());
    let pods = pods.count();
    let any = status.interfaces.iter().any(|one| one.role == Role::Pod);
    if status.started && pods > 0 && !any {
        notes.push(format!(
            "the API lists {pods} pods of this node with an address of their own, and no interface \
             of the node leads to a pod: what pods do over ipvlan, macvlan or SR-IOV is not seen"
        ));
    }
    notes
}

fn roles(status: &Status) -> BTreeMap<u32, Role> {
    let all = status.interfaces.iter();
    all.map(|one| (one.ifindex, one.role)).collect()
}

fn beneath(index: u32, device: &Beneath, view: &NodeView) -> Interface {
    let link = view.interfaces.get(&index);
    let counted_at = view.name_of(device.counted_at);
    Interface {
        name: view.name_of(index).to_string(),
        index,
        kind: link.map_or_else(String::new, |link| link.kind.to_string()),
        master: master(index, view),
        attached: "none".to_owned(),
        beneath: format!("{}, counted at {counted_at}", device.part),
        addresses: addresses(index, view),
        ..Interface::default()
    }
}

fn master(index: u32, view: &NodeView) -> String {
    let master = view.interfaces.get(&index).and_then(|link| link.master);
    master.map_or_else(String::new, |master| view.name_of(master).to_string())
}

fn addresses(index: u32, view: &NodeView) -> Vec<String> {
    let all = view.addresses_of(index);
    all.map(|net| net.to_string()).collect()
}

fn interface(
    one: &InterfaceStatus,
    view: &NodeView,
    behind: &BTreeMap<u32, Vec<IpAddr>>,
    inventory: &Inventory,
) -> Interface {
    let link = view.interfaces.get(&one.ifindex);
    let now = SystemTime::now();
    let pods = behind.get(&one.ifindex).into_iter().flatten().map(|ip| {
        let name = inventory.pod_at(*ip, now).map(|pod| pod.name.clone());
        let name = name.unwrap_or_default();
        PodAddress {
            namespace: name.namespace,
            name: name.name,
            ip: ip.to_string(),
        }
    });
    let (attached, error) = match &one.attached {
        Ok(method) => ((*method).to_owned(), String::new()),
        Err(why) => ("none".to_owned(), why.clone()),
    };
    Interface {
        name: one.name.to_string(),
        index: one.ifindex,
        role: names::role(one.role).to_owned(),
        kind: link.map_or_else(String::new, |link| link.kind.to_string()),
        master: master(one.ifindex, view),
        attached,
        error,
        pods: pods.collect(),
        ingress: Some(hook(&one.ingress)),
        egress: Some(hook(&one.egress)),
        addresses: addresses(one.ifindex, view),
        beneath: String::new(),
    }
}

fn hook(status: &HookStatus) -> HookCounts {
    let none = status.unattributed.values().fold((0, 0), |sum, counts| {
        (sum.0 + counts.packets, sum.1 + counts.bytes)
    });
    let seen = status.seen();
    HookCounts {
        packets: seen.packets,
        bytes: seen.bytes,
        unattributed_packets: none.0,
        unattributed_bytes: none.1,
    }
}
