//! What differs between network plugins: how pods hang on a node, what is masqueraded.

use super::masq::MasqConfig;
use super::pods::Pod;
use super::topology::{NodeSpec, Topology};

/// `ip -batch` lines that connect a pod, for each of the two namespaces.
#[derive(Clone, Debug, Default)]
pub struct PodLines {
    /// In the node's namespace, first: these make the pair of interfaces.
    pub node: Vec<String>,
    /// In the pod's namespace.
    pub pod: Vec<String>,
    /// Kernel parameters in the node's namespace, once the interfaces are there.
    pub node_sysctls: Vec<(String, String)>,
}

/// A network plugin's way to wire a node. Addresses and routes between machines are the
/// [`Topology`]'s; only what happens inside a node is here.
pub trait Wiring: Send + Sync {
    /// `ip -batch` lines in the node's namespace, after its eth0 is up, before any pod.
    fn node_lines(&self, node: &NodeSpec) -> Vec<String>;

    /// Further commands in the node's namespace, each an argument vector.
    fn node_commands(&self, node: &NodeSpec) -> Vec<Vec<String>>;

    /// The name of the host side of the pod called `pod` (namespace/name).
    fn host_interface(&self, pod: &str) -> String;

    /// How to connect `pod`.
    fn pod_lines(&self, node: &NodeSpec, pod: &Pod, pod_netns: &str) -> PodLines;

    /// Rules of the nat table that masquerade what leaves the cluster, for
    /// `iptables-restore`, after kube-proxy's own. `masq` is the configuration in force where
    /// the cluster has an ip-masq-agent.
    fn masquerade_rules(&self, topology: &Topology, masq: Option<&MasqConfig>) -> Vec<String>;

    /// Whether the host side is a bridge port, usable once the bridge forwards on it.
    fn has_bridge(&self) -> bool;
}
