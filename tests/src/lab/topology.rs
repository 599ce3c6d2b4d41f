//! A cluster's network as data, and the fabric that carries it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::model::Model;
use super::names;

/// Machines and ranges of one cluster.
#[derive(Clone, Debug)]
pub struct Topology {
    /// How pods are connected.
    pub model: Model,
    /// The virtual network that nodes and VM are in.
    pub vnet: Ipv4Net,
    /// The nodes' subnet.
    pub subnet: Ipv4Net,
    /// The fabric's address in it, every machine's default gateway.
    pub gateway: Ipv4Addr,
    /// The nodes, in order.
    pub nodes: Vec<NodeSpec>,
    /// All pods of the cluster.
    pub pod_range: Ipv4Net,
    /// ClusterIPs.
    pub service_range: Ipv4Net,
    /// The ClusterIP of kube-dns.
    pub dns: Ipv4Addr,
    /// A virtual machine beside the nodes, in the VNet.
    pub vm: Machine,
    /// A machine on premises, behind the fabric.
    pub onprem: Machine,
    /// Addresses of the cloud's platform, answered by the fabric.
    pub platform: Vec<Ipv4Addr>,
    /// The subnet's route table: destination, next hop.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its Kubernetes name.
    pub name: String,
    /// Its address on eth0.
    pub ip: Ipv4Addr,
    /// The range its pods' addresses are taken from; none where pods are in the nodes' subnet.
    pub pod_cidr: Option<Ipv4Net>,
    /// The first and the last address that a pod on it can get.
    pub pod_pool: (Ipv4Addr, Ipv4Addr),
}

impl NodeSpec {
    /// A node with a pod range of its own: pods get all of it but the first address.
    pub fn with_cidr(name: &str, ip: Ipv4Addr, cidr: Ipv4Net) -> Self {
        let hosts = u32::from(cidr.network());
        let last = u32::from(cidr.broadcast()).saturating_sub(1);
        Self {
            name: name.to_owned(),
            ip,
            pod_cidr: Some(cidr),
            pod_pool: (Ipv4Addr::from(hosts + 2), Ipv4Addr::from(last)),
        }
    }

    /// The addresses that pods on it can get.
    pub fn pod_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, last) = self.pod_pool;
        (u32::from(first)..=u32::from(last)).map(Ipv4Addr::from)
    }
}

/// A machine that is no node.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The role in its namespace's name: `vm`, `onprem`.
    pub role: String,
    /// Its address and the prefix of its subnet.
    pub address: Ipv4Net,
}

impl Machine {
    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.address.addr()
    }

    /// Its gateway: the first address of its subnet, on the fabric.
    fn gateway(&self) -> Ipv4Addr {
        let subnet = self.address.trunc();
        subnet.hosts().next().unwrap_or(subnet.network())
    }
}

/// The fabric's switch.
const SWITCH: &str = "vnet";

/// The fabric's interface that swallows packets for load balancers without healthy nodes.
pub const VOID: &str = "void";

/// The namespace of node `index` by its role.
pub fn node_role(index: usize) -> String {
    format!("node{index}")
}

impl Topology {
    /// The kubenet cluster.
    pub fn kubenet() -> Self {
        super::kubenet::topology()
    }

    /// The Azure CNI cluster: pods in the nodes' subnet.
    pub fn azure_cni() -> Self {
        super::azure::cni_topology()
    }

    /// The Azure CNI Overlay cluster.
    pub fn overlay() -> Self {
        super::azure::overlay_topology()
    }

    /// The `number`-th address for load balancers: the nodes' subnet from its 200th address on.
    pub fn vip(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) + 200 + u32::from(number))
    }

    /// The `nth` address of pods on node `node`; unspecified when there is none.
    pub fn pod_ip(&self, node: usize, nth: usize) -> Ipv4Addr {
        let node = self.nodes.get(node);
        node.and_then(|node| node.pod_addresses().nth(nth))
            .unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// The index of the node called `name`.
    pub fn node_index(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Roles of the namespaces without pods: fabric, nodes, machines.
    pub fn roles(&self) -> Vec<String> {
        let mut roles = vec!["fabric".to_owned()];
        roles.extend((0..self.nodes.len()).map(node_role));
        roles.extend([self.vm.role.clone(), self.onprem.role.clone()]);
        roles
    }

    /// `ip -batch` lines that build the fabric: a switch with the gateway's and the
    /// platform's addresses and a port for each machine of the VNet, a routed link to
    /// on-premises, and the route table.
    pub fn fabric_lines(&self, lab: &str) -> Vec<String> {
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link add {SWITCH} type bridge mcast_snooping 0"),
            // The address that Azure's virtual gateways answer with.
            format!("link set {SWITCH} address 12:34:56:78:9a:bc"),
        ];
        let mut port = |role: &str, ip: Ipv4Addr| {
            let (peer, mac) = (names::namespace(lab, role), names::machine_mac(ip));
            lines.push(format!(
                "link add {role} type veth peer name eth0 address {mac} netns {peer}"
            ));
            lines.push(format!("link set {role} up"));
        };
        for (index, node) in self.nodes.iter().enumerate() {
            port(&node_role(index), node.ip);
        }
        port(&self.vm.role, self.vm.ip());
        port(&self.onprem.role, self.onprem.ip());
        let in_vnet = (0..self.nodes.len()).map(node_role);
        lines.extend(in_vnet.chain([self.vm.role.clone()]).flat_map(|role| {
            [
                format!("link set {role} master {SWITCH}"),
                // Nothing is switched from port to port: as in Azure's network, the
                // gateway's hardware address answers for everybody, and routes.
                format!("link set {role} type bridge_slave isolated on"),
            ]
        }));
        lines.push(format!(
            "addr add {}/{} dev {SWITCH}",
            self.gateway,
            self.subnet.prefix_len()
        ));
        if self.vm.gateway() != self.gateway {
            let prefix = self.vm.address.prefix_len();
            lines.push(format!(
                "addr add {}/{prefix} dev {SWITCH}",
                self.vm.gateway()
            ));
        }
        let platform = self.platform.iter();
        lines.extend(platform.map(|ip| format!("addr add {ip}/32 dev {SWITCH}")));
        lines.push(format!("link set {SWITCH} up"));
        // What is sent here is gone without a word.
        lines.push(format!(
            "link add {VOID} arp off type veth peer name {VOID}0 arp off"
        ));
        lines.push(format!("link set {VOID} up"));
        lines.push(format!("link set {VOID}0 up"));
        lines.push(format!(
            "addr add {}/{} dev {}",
            self.onprem.gateway(),
            self.onprem.address.prefix_len(),
            self.onprem.role
        ));
        lines.extend(
            self.routes
                .iter()
                .map(|(to, via)| format!("route add {to} via {via}")),
        );
        lines
    }

    /// `ip -batch` lines inside a node that bring its eth0 up.
    pub fn node_lines(&self, node: &NodeSpec) -> Vec<String> {
        let mut lines = self.uplink_lines(node.ip, self.subnet.prefix_len(), self.gateway);
        // As Azure's DHCP hands them out.
        lines.extend(
            self.platform
                .iter()
                .map(|ip| format!("route add {ip}/32 via {} dev eth0", self.gateway)),
        );
        lines
    }

    /// `ip -batch` lines inside a machine that is no node.
    pub fn machine_lines(&self, machine: &Machine) -> Vec<String> {
        self.uplink_lines(
            machine.ip(),
            machine.address.prefix_len(),
            machine.gateway(),
        )
    }

    fn uplink_lines(&self, ip: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Vec<String> {
        vec![
            "link set lo up".to_owned(),
            format!("addr add {ip}/{prefix} dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {gateway} dev eth0"),
        ]
    }
}

/// Kernel parameters of the fabric: it routes, and filters nothing of what it switches.
pub const FABRIC_SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.bridge.bridge-nf-call-iptables", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    // Flows stay on the node that their addresses and ports choose.
    ("net.ipv4.fib_multipath_hash_policy", "1"),
];

/// Kernel parameters of the fabric's switch, once it is there: it answers for every address
/// that it has a route to, at once.
pub const SWITCH_SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.conf.vnet.proxy_arp", "1"),
    ("net.ipv4.conf.vnet.proxy_arp_pvlan", "1"),
    ("net.ipv4.neigh.vnet.proxy_delay", "0"),
];

/// Kernel parameters of a node: what Kubernetes asks for, and the redirect settings of AKS
/// images (`/etc/sysctl.d/60-CIS.conf`).
pub const NODE_SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.rp_filter", "2"),
    ("net.ipv4.conf.default.rp_filter", "2"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.bridge.bridge-nf-call-iptables", "1"),
];
