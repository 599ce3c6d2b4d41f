//! kubenet: pods on a bridge `cbr0`, a range for each node, a route table between nodes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::masq::MasqConfig;
use super::model::Model;
use super::names;
use super::pods::Pod;
use super::topology::{Machine, NodeSpec, Topology};
use super::wiring::{PodLines, Wiring};

/// The pod bridge's name.
const BRIDGE: &str = "cbr0";

/// A constant prefix: lengths above 32 do not occur in this file.
pub(super) fn net(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

/// The names of the nodes in the AKS networking labs.
pub(super) const NODE_NAMES: [&str; 2] = [
    "aks-nodepool1-11743156-vmss000000",
    "aks-pool2-13111960-vmss000000",
];

/// Two nodes with a pod range each, as kubenet and overlay have them.
pub(super) fn two_nodes() -> Vec<NodeSpec> {
    let ip = Ipv4Addr::new;
    vec![
        NodeSpec::with_cidr(NODE_NAMES[0], ip(10, 224, 0, 4), net(10, 244, 0, 0, 24)),
        NodeSpec::with_cidr(NODE_NAMES[1], ip(10, 224, 0, 5), net(10, 244, 1, 0, 24)),
    ]
}

/// The way to each node's pod range.
pub(super) fn pod_routes(nodes: &[NodeSpec]) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let routes = nodes.iter().map(|node| Some((node.pod_cidr?, node.ip)));
    routes.flatten().collect()
}

/// The bridge's address, the first of the node's pod range, with the prefix.
fn bridge_address(node: &NodeSpec) -> Ipv4Net {
    let cidr = node.pod_cidr.unwrap_or_default();
    let first = cidr.hosts().next().unwrap_or(cidr.network());
    Ipv4Net::new(first, cidr.prefix_len()).unwrap_or(cidr)
}

/// The kubenet cluster of the AKS networking labs.
pub fn topology() -> Topology {
    let ip = Ipv4Addr::new;
    let nodes = two_nodes();
    Topology {
        model: Model::Kubenet,
        vnet: net(10, 224, 0, 0, 12),
        subnet: net(10, 224, 0, 0, 16),
        gateway: ip(10, 224, 0, 1),
        routes: pod_routes(&nodes),
        nodes,
        pod_range: net(10, 244, 0, 0, 16),
        service_range: net(10, 0, 0, 0, 16),
        dns: ip(10, 0, 0, 10),
        vm: Machine {
            role: "vm".to_owned(),
            address: net(10, 224, 1, 2, 16),
        },
        onprem: Machine {
            role: "onprem".to_owned(),
            address: net(10, 1, 2, 3, 24),
        },
        platform: vec![ip(168, 63, 129, 16), ip(169, 254, 169, 254)],
    }
}

/// kubenet's wiring of a node.
#[derive(Clone, Copy, Debug)]
pub struct Kubenet {
    /// The kubelet's `--hairpin-mode=promiscuous-bridge`, its default with kubenet; else
    /// `hairpin-veth`. From Linux 6.9 on a pod does not reach itself through its own service
    /// over a promiscuous bridge: br_netfilter forgets the connection of promiscuous copies
    /// ("skip conntrack input hook for promisc packets"), and kube-proxy drops them as INVALID.
    pub promiscuous: bool,
    /// Whether `ebtables` is there to write the rules that drop the copies.
    pub ebtables: bool,
}

impl Wiring for Kubenet {
    fn node_lines(&self, node: &NodeSpec) -> Vec<String> {
        let address = bridge_address(node);
        let mut lines = vec![
            // Without snooping the bridge joins no multicast group: its reports are packets
            // that nobody asked for, seconds later.
            format!("link add {BRIDGE} type bridge mcast_snooping 0"),
            format!(
                "link set {BRIDGE} address {}",
                names::pod_mac(address.addr())
            ),
            format!("addr add {address} dev {BRIDGE}"),
            format!("link set {BRIDGE} up"),
        ];
        if self.promiscuous {
            lines.push(format!("link set {BRIDGE} promisc on"));
        }
        lines
    }

    /// The chain KUBE-DEDUP of kubenet's `syncEbtablesDedupRules`: with a promiscuous bridge
    /// a frame reaches a port both switched and as the host's copy; the copy is dropped.
    fn node_commands(&self, node: &NodeSpec) -> Vec<Vec<String>> {
        if !self.promiscuous || !self.ebtables {
            return Vec::new();
        }
        let address = bridge_address(node);
        let (gateway, cidr) = (address.addr(), address.trunc());
        let from_bridge = format!(
            "ebtables -t filter -A KUBE-DEDUP -p IPv4 -s {} -o veth+ --ip-src",
            names::pod_mac(gateway)
        );
        [
            "ebtables -t filter -N KUBE-DEDUP -P RETURN".to_owned(),
            "ebtables -t filter -A OUTPUT -j KUBE-DEDUP".to_owned(),
            format!("{from_bridge} {gateway} -j ACCEPT"),
            format!("{from_bridge} {cidr} -j DROP"),
        ]
        .iter()
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect()
    }

    fn host_interface(&self, pod: &str) -> String {
        names::host_interface("veth", 8, pod)
    }

    fn pod_lines(&self, node: &NodeSpec, pod: &Pod, pod_netns: &str) -> PodLines {
        let host = pod.host_interface();
        let bridge = bridge_address(node);
        let mut lines = vec![
            format!(
                "link add {host} type veth peer name eth0 address {} netns {pod_netns}",
                pod.mac()
            ),
            format!("link set {host} master {BRIDGE}"),
        ];
        if !self.promiscuous {
            lines.push(format!("link set {host} type bridge_slave hairpin on"));
        }
        lines.push(format!("link set {host} up"));
        PodLines {
            node: lines,
            pod: vec![
                "link set lo up".to_owned(),
                format!("addr add {}/{} dev eth0", pod.ip(), bridge.prefix_len()),
                "link set eth0 up".to_owned(),
                format!("route add default via {} dev eth0", bridge.addr()),
            ],
            node_sysctls: Vec::new(),
        }
    }

    fn masquerade_rules(&self, topology: &Topology, _: Option<&MasqConfig>) -> Vec<String> {
        vec![format!(
            "-A POSTROUTING ! -d {} -m comment --comment \
             \"kubenet: SNAT for outbound traffic from cluster\" \
             -m addrtype ! --dst-type LOCAL -j MASQUERADE",
            topology.pod_range
        )]
    }

    fn has_bridge(&self) -> bool {
        true
    }
}
