//! Which network model the node runs, recognised from what is there, with the evidence.

use ipnet::IpNet;

use crate::flow::Role;

use super::interface::{Interface, Kind};
use super::roles::natural_role;
use super::view::NodeView;

/// How pods are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// Bridge `cbr0`, a pod range a node.
    Kubenet,
    /// Pods with addresses of the node's own subnet, a host route each.
    AzureCni,
    /// Pods with addresses of a range of their own, a host route each, nothing encapsulated by
    /// the node.
    Overlay,
    /// Cilium: `lxc*` and `cilium_*` interfaces.
    Cilium,
    /// Calico: `cali*` interfaces.
    Calico,
    /// None of these, or too little to tell.
    Other,
}

impl std::fmt::Display for ModelKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kubenet => "kubenet",
            Self::AzureCni => "azure-cni",
            Self::Overlay => "overlay",
            Self::Cilium => "cilium",
            Self::Calico => "calico",
            Self::Other => "other",
        })
    }
}

/// A network model and why it is thought to be that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkModel {
    /// The model.
    pub kind: ModelKind,
    /// What was seen, one finding each, the deciding ones first.
    pub evidence: Vec<String>,
}

/// Recognises the model. `pod_cidr` is the node's own, from the API or the configuration.
pub fn model(view: &NodeView, pod_cidr: Option<IpNet>) -> NetworkModel {
    let mut evidence = Vec::new();
    let kind = by_names(view, &mut evidence)
        .or_else(|| kubenet(view, &mut evidence))
        .or_else(|| routed(view, pod_cidr, &mut evidence))
        .or_else(|| bridged(view, &mut evidence))
        .unwrap_or_else(|| {
            evidence.push("no pod interface, pod bridge or pod route seen yet".to_owned());
            ModelKind::Other
        });
    match pod_cidr {
        Some(cidr) => evidence.push(format!("the node's pod CIDR is {cidr}")),
        None => evidence.push("the node has no pod CIDR, or it is not known".to_owned()),
    }
    NetworkModel { kind, evidence }
}

fn by_names(view: &NodeView, evidence: &mut Vec<String>) -> Option<ModelKind> {
    let named = |prefixes: &[&str]| -> Vec<&str> {
        let names = view.interfaces.values().map(|interface| &*interface.name);
        names
            .filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
            .collect()
    };
    let cilium = named(&["cilium_", "lxc"]);
    let calico = named(&["cali", "vxlan.calico"]);
    let (kind, names) = match (cilium.is_empty(), calico.is_empty()) {
        (false, _) => (ModelKind::Cilium, cilium),
        (true, false) => (ModelKind::Calico, calico),
        (true, true) => return None,
    };
    evidence.push(format!(
        "interfaces named as {kind} names them: {}",
        some_of(&names)
    ));
    Some(kind)
}

fn kubenet(view: &NodeView, evidence: &mut Vec<String>) -> Option<ModelKind> {
    let bridge = view
        .by_name("cbr0")
        .filter(|found| found.kind == Kind::Bridge)?;
    evidence.push(describe_bridge(view, bridge));
    Some(ModelKind::Kubenet)
}

fn bridged(view: &NodeView, evidence: &mut Vec<String>) -> Option<ModelKind> {
    let is_bridge = |found: &&Interface| natural_role(view, found) == Some(Role::Bridge);
    let bridge = view.interfaces.values().find(is_bridge)?;
    evidence.push(describe_bridge(view, bridge));
    Some(ModelKind::Other)
}

/// Pods behind a host route each: what their addresses are part of tells the rest.
fn routed(
    view: &NodeView,
    pod_cidr: Option<IpNet>,
    evidence: &mut Vec<String>,
) -> Option<ModelKind> {
    let is_pod = |index: u32| {
        let found = view.interfaces.get(&index);
        found.is_some_and(|found| natural_role(view, found) == Some(Role::Pod))
    };
    let pods: Vec<IpNet> = view
        .routes
        .iter()
        .map(|route| (route.destination, route.ifindex))
        .filter(|(net, index)| net.prefix_len() == net.max_prefix_len() && is_pod(*index))
        .map(|(net, _)| net)
        .collect();
    let first = pods.first()?;
    let uplinks = view.uplinks().flat_map(|index| view.addresses_of(index));
    let node = uplinks
        .map(|net| net.trunc())
        .find(|net| net.contains(first));
    let names: Vec<String> = pods.iter().map(ToString::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    evidence.push(format!(
        "no pod bridge, a host route for each pod: {}",
        some_of(&names)
    ));
    let azv: Vec<&str> = view
        .interfaces
        .values()
        .map(|interface| &*interface.name)
        .filter(|name| name.starts_with("azv"))
        .collect();
    if !azv.is_empty() {
        evidence.push(format!(
            "interfaces named as azure-vnet names them: {}",
            some_of(&azv)
        ));
    }
    if let Some(node) = node {
        evidence.push(format!(
            "pod addresses are part of the uplink's own subnet {node}"
        ));
        return Some(ModelKind::AzureCni);
    }
    evidence.push("pod addresses are not part of the uplink's subnet".to_owned());
    let in_range = pod_cidr.is_some_and(|cidr| cidr.contains(first));
    Some(if in_range || !azv.is_empty() {
        ModelKind::Overlay
    } else {
        ModelKind::Other
    })
}

fn describe_bridge(view: &NodeView, bridge: &Interface) -> String {
    let addresses: Vec<String> = view
        .addresses_of(bridge.index)
        .map(|net| net.to_string())
        .collect();
    let ports: Vec<&str> = view
        .ports_of(bridge.index)
        .map(|port| &*port.name)
        .collect();
    format!(
        "bridge {} ({}) with {} ports{}",
        bridge.name,
        if addresses.is_empty() {
            "no address".to_owned()
        } else {
            addresses.join(", ")
        },
        ports.len(),
        if ports.is_empty() {
            String::new()
        } else {
            format!(": {}", some_of(&ports))
        },
    )
}

/// The first few names, and how many more there are.
fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    let shown = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
