//! Owners of addresses as Hubble endpoints, with numbers that stay the same.

use crate::flow::{Identity, Pod};
use crate::sink::proto::flow::{Endpoint, Workload};

/// Reserved identity numbers of the Hubble API.
pub mod reserved {
    /// Not known.
    pub const UNKNOWN: u32 = 0;
    /// The node that made the record.
    pub const HOST: u32 = 1;
    /// Outside the cluster.
    pub const WORLD: u32 = 2;
    /// A pod that the API does not know.
    pub const UNMANAGED: u32 = 3;
    /// Another node of the cluster.
    pub const REMOTE_NODE: u32 = 6;
    /// An address, outside or another node's, that the Kubernetes API is served at.
    pub const KUBE_APISERVER: u32 = 7;
    /// The first number that is not reserved.
    pub const FIRST_FREE: u32 = 256;
}

/// Numbers are below this: the API keeps the bits above 24 for other uses.
const IDENTITY_LIMIT: u32 = 1 << 24;

/// The endpoint of an owner, as the node called `here` sees it. `api_server`: the Kubernetes API
/// is served at the address.
pub fn endpoint(identity: &Identity, here: &str, api_server: bool) -> Endpoint {
    let mut endpoint = owner(identity, here);
    // The node's own and a pod's addresses stay what they are, whatever is served there.
    if api_server && matches!(endpoint.identity, reserved::WORLD | reserved::REMOTE_NODE) {
        endpoint.identity = reserved::KUBE_APISERVER;
        endpoint
            .labels
            .insert(0, "reserved:kube-apiserver".to_owned());
    }
    endpoint
}

fn owner(identity: &Identity, here: &str) -> Endpoint {
    match identity {
        Identity::Pod(pod) => pod_endpoint(pod),
        Identity::UnknownPod => reserved_endpoint(reserved::UNMANAGED, "reserved:unmanaged"),
        Identity::Node(node) if node.name == here => {
            reserved_endpoint(reserved::HOST, "reserved:host")
        }
        Identity::Node(node) => {
            let mut endpoint = reserved_endpoint(reserved::REMOTE_NODE, "reserved:remote-node");
            endpoint
                .labels
                .push(format!("nodescope:node={}", node.name));
            endpoint
        }
        Identity::Service(service) => Endpoint {
            identity: number(["service", &service.namespace, &service.name]),
            namespace: service.namespace.clone(),
            labels: vec![
                format!("k8s:io.kubernetes.pod.namespace={}", service.namespace),
                format!("nodescope:service={}", service.name),
            ],
            ..Endpoint::default()
        },
        Identity::Platform => {
            let mut endpoint = reserved_endpoint(reserved::WORLD, "reserved:world");
            endpoint.labels.push("nodescope:platform".to_owned());
            endpoint
        }
        Identity::World => reserved_endpoint(reserved::WORLD, "reserved:world"),
        Identity::Unknown => reserved_endpoint(reserved::UNKNOWN, "reserved:unknown"),
    }
}

fn reserved_endpoint(identity: u32, label: &str) -> Endpoint {
    Endpoint {
        identity,
        labels: vec![label.to_owned()],
        ..Endpoint::default()
    }
}

fn pod_endpoint(pod: &Pod) -> Endpoint {
    let namespace = &pod.name.namespace;
    let mut labels: Vec<_> = pod
        .labels
        .iter()
        .map(|(key, value)| format!("k8s:{key}={value}"))
        .collect();
    labels.push(format!("k8s:io.kubernetes.pod.namespace={namespace}"));
    labels.sort_unstable();
    // One number a workload, so that the replicas of one are one card in a service map.
    let identity = match &pod.workload {
        Some(workload) => number(["workload", namespace, &workload.kind, &workload.name]),
        None if pod.labels.is_empty() => number(["pod", namespace, &pod.name.name]),
        None => number(std::iter::once("labels").chain(labels.iter().map(String::as_str))),
    };
    let workloads = pod.workload.iter().map(|workload| Workload {
        name: workload.name.clone(),
        kind: workload.kind.clone(),
    });
    Endpoint {
        identity,
        namespace: namespace.clone(),
        pod_name: pod.name.name.clone(),
        workloads: workloads.collect(),
        labels,
        ..Endpoint::default()
    }
}

/// 64-bit FNV-1a over the parts, folded to a number that is not reserved. The same on every
/// node and after every restart, which a table of numbers given out in turn would not be.
fn number<'a>(parts: impl IntoIterator<Item = &'a str>) -> u32 {
    // Offset basis and prime: draft-eastlake-fnv, section 5.
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let mut hash = BASIS;
    for part in parts {
        // The zero keeps ("a", "bc") and ("ab", "c") apart.
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
    let span = u64::from(IDENTITY_LIMIT - reserved::FIRST_FREE);
    // The remainder is below 2^24, so nothing is cut off.
    #[allow(clippy::cast_possible_truncation, reason = "see above")]
    let folded = (hash % span) as u32;
    folded + reserved::FIRST_FREE
}
