//! kubenet: pods on a bridge `cbr0`, a range for each node, a route table between nodes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::names;
use super::pods::Pod;
use super::topology::{Machine, NodeSpec, Topology};
use super::wiring::{PodLines, Wiring};

/// The pod bridge's name.
const BRIDGE: &str = "cbr0";

/// A constant prefix: lengths above 32 do not occur in this file.
fn net(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

/// The kubenet cluster of the AKS networking labs.
pub fn topology() -> Topology {
    let ip = Ipv4Addr::new;
    let nodes: Vec<NodeSpec> = vec![
        NodeSpec {
            name: "aks-nodepool1-11743156-vmss000000".to_owned(),
            ip: ip(10, 224, 0, 4),
            pod_cidr: net(10, 244, 0, 0, 24),
        },
        NodeSpec {
            name: "aks-pool2-13111960-vmss000000".to_owned(),
            ip: ip(10, 224, 0, 5),
            pod_cidr: net(10, 244, 1, 0, 24),
        },
    ];
    Topology {
        subnet: net(10, 224, 0, 0, 16),
        gateway: ip(10, 224, 0, 1),
        routes: nodes.iter().map(|n| (n.pod_cidr, n.ip)).collect(),
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
    /// `hairpin-veth`.
    pub promiscuous: bool,
    /// Whether `ebtables` is there to write the rules that drop the copies.
    pub ebtables: bool,
}

impl Wiring for Kubenet {
    fn node_lines(&self, node: &NodeSpec) -> Vec<String> {
        let (gateway, prefix) = (node.pod_gateway(), node.pod_cidr.prefix_len());
        let mut lines = vec![
            format!("link add {BRIDGE} type bridge"),
            format!("link set {BRIDGE} address {}", names::pod_mac(gateway)),
            format!("addr add {gateway}/{prefix} dev {BRIDGE}"),
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
        let gateway = node.pod_gateway();
        let from_bridge = format!(
            "ebtables -t filter -A KUBE-DEDUP -p IPv4 -s {} -o veth+ --ip-src",
            names::pod_mac(gateway)
        );
        [
            "ebtables -t filter -N KUBE-DEDUP -P RETURN".to_owned(),
            "ebtables -t filter -A OUTPUT -j KUBE-DEDUP".to_owned(),
            format!("{from_bridge} {gateway} -j ACCEPT"),
            format!("{from_bridge} {} -j DROP", node.pod_cidr),
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
                format!(
                    "addr add {}/{} dev eth0",
                    pod.ip(),
                    node.pod_cidr.prefix_len()
                ),
                "link set eth0 up".to_owned(),
                format!("route add default via {} dev eth0", node.pod_gateway()),
            ],
        }
    }

    fn masquerade_rules(&self, topology: &Topology) -> Vec<String> {
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
