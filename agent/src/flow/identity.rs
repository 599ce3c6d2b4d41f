//! Who an address belongs to. The cluster room decides; every later room only reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::probe::ProbeSpec;

/// A namespaced Kubernetes name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Namespace, for example `kube-system`.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The controller that a pod belongs to, as people know it (`Deployment`, not its `ReplicaSet`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Name of the controller.
    pub name: String,
    /// Its kind, for example `Deployment` or `DaemonSet`.
    pub kind: String,
}

/// A pod with an address of its own (not a hostNetwork pod: those are the node).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`: tells two pods of one name apart.
    pub uid: String,
    /// All addresses of `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: Arc<str>,
    /// The owning workload, if any.
    pub workload: Option<Arc<Workload>>,
    /// Labels of the pod.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Health probes of its containers that cross the network; none of a pod on another node.
    pub probes: Vec<ProbeSpec>,
}

/// A Kubernetes node (or, without the API, the machine that the agent runs on).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `status.addresses` of type InternalIP and ExternalIP.
    pub ips: Vec<IpAddr>,
    /// `spec.podCIDRs`, as written.
    pub pod_cidrs: Vec<ipnet::IpNet>,
    /// How many pods the kubelet takes (`status.allocatable.pods`), hostNetwork pods included.
    pub max_pods: Option<u32>,
}

/// The owner of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// A pod with its own address.
    Pod(Arc<Pod>),
    /// Inside the pod range (or behind a pod interface), but no pod known to the API has it.
    UnknownPod,
    /// A node's own address; hostNetwork pods answer there as well.
    Node(Arc<Node>),
    /// A service address (cluster IP, load-balancer VIP, external IP) that was not translated.
    Service(ObjectName),
    /// An address of the cloud platform: 168.63.129.16 or 169.254.169.254.
    Platform,
    /// Anything else.
    World,
    /// Not classed yet.
    #[default]
    Unknown,
}

impl Identity {
    /// The pod, when it is one that the API knows.
    pub fn pod(&self) -> Option<&Arc<Pod>> {
        match self {
            Self::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    /// Whether this is a pod, known by name or not.
    pub fn is_pod(&self) -> bool {
        matches!(self, Self::Pod(_) | Self::UnknownPod)
    }
}
