//! Azure CNI in both forms: a host route to each pod and no bridge.

use std::net::Ipv4Addr;

use super::kubenet::{NODE_NAMES, net, pod_routes, two_nodes};
use super::masq::MasqConfig;
use super::model::Model;
use super::names;
use super::pods::Pod;
use super::topology::{Machine, NodeSpec, Topology};
use super::wiring::{PodLines, Wiring};

/// What every pod has as its gateway (azure-container-networking, `virtualGwIPString`).
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The hardware address of the host side of every pod (the same, `defaultHostVethHwAddr`).
const HOST_MAC: &str = "aa:aa:aa:aa:aa:aa";

/// The Azure CNI cluster: pods have addresses of the nodes' subnet, handed out to nodes in
/// blocks.
pub fn cni_topology() -> Topology {
    let ip = Ipv4Addr::new;
    let node = |name: &str, own: u8, first: u8, last: u8| NodeSpec {
        name: name.to_owned(),
        ip: ip(10, 220, 2, own),
        pod_cidr: None,
        pod_pool: (ip(10, 220, 2, first), ip(10, 220, 2, last)),
    };
    Topology {
        model: Model::AzureCni,
        vnet: net(10, 220, 0, 0, 16),
        subnet: net(10, 220, 2, 0, 24),
        gateway: ip(10, 220, 2, 1),
        nodes: vec![
            node(NODE_NAMES[0], 4, 5, 32),
            node(NODE_NAMES[1], 33, 34, 62),
        ],
        pod_range: net(10, 220, 2, 0, 24),
        service_range: net(10, 200, 0, 0, 16),
        dns: ip(10, 200, 0, 10),
        vm: Machine {
            role: "vm".to_owned(),
            address: net(10, 220, 1, 10, 24),
        },
        onprem: Machine {
            role: "onprem".to_owned(),
            address: net(10, 1, 2, 3, 24),
        },
        platform: vec![ip(168, 63, 129, 16), ip(169, 254, 169, 254)],
        routes: Vec::new(),
    }
}

/// The overlay cluster: kubenet's addresses, Azure CNI's wiring. The fabric delivers pod
/// ranges by itself, without a route table that anybody could edit.
pub fn overlay_topology() -> Topology {
    let nodes = two_nodes();
    Topology {
        model: Model::Overlay,
        routes: pod_routes(&nodes),
        nodes,
        ..Topology::kubenet()
    }
}

/// Azure CNI's wiring of a node (its `transparent` mode).
#[derive(Clone, Copy, Debug)]
pub struct AzureCni;

impl Wiring for AzureCni {
    fn node_lines(&self, _: &NodeSpec) -> Vec<String> {
        Vec::new()
    }

    fn node_commands(&self, _: &NodeSpec) -> Vec<Vec<String>> {
        Vec::new()
    }

    fn host_interface(&self, pod: &str) -> String {
        names::host_interface("azv", 11, pod)
    }

    fn pod_lines(&self, node: &NodeSpec, pod: &Pod, pod_netns: &str) -> PodLines {
        let (host, ip, mac) = (pod.host_interface(), pod.ip(), pod.mac());
        let prefix = node.pod_cidr.map_or(24, |_| 16);
        PodLines {
            node: vec![
                format!(
                    "link add {host} address {HOST_MAC} type veth \
                     peer name eth0 address {mac} netns {pod_netns}"
                ),
                format!("link set {host} up"),
                format!("route add {ip}/32 dev {host}"),
            ],
            pod: vec![
                "link set lo up".to_owned(),
                // The plugin takes the subnet's route away again: everything goes to the host.
                format!("addr add {ip}/{prefix} dev eth0 noprefixroute"),
                "link set eth0 up".to_owned(),
                format!("route add {GATEWAY}/32 dev eth0 scope link"),
                format!("route add default via {GATEWAY} dev eth0"),
                format!("neigh add {GATEWAY} lladdr {HOST_MAC} dev eth0 nud permanent"),
            ],
            node_sysctls: vec![(format!("net.ipv4.conf.{host}.proxy_arp"), "1".to_owned())],
        }
    }

    fn masquerade_rules(&self, _: &Topology, masq: Option<&MasqConfig>) -> Vec<String> {
        masq.map(MasqConfig::rules).unwrap_or_default()
    }

    fn has_bridge(&self) -> bool {
        false
    }
}
