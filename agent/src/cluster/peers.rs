//! The agents of the cluster, by the pods of their DaemonSet: where a relay finds them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

use super::agents::{AGENT_LABEL, PORT};
use super::trim::PodRecord;

/// Where the agent of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentAt {
    /// The pod's address, which is the node's: agents use the node's network.
    pub ip: IpAddr,
    /// The container port called `hubble`, where the pod has one.
    pub port: Option<u16>,
}

/// The agents of the own DaemonSet by the name of their node.
pub type Agents = BTreeMap<String, AgentAt>;

/// What the specification of an agent's pod says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// See [`AgentAt::port`].
    hubble: Option<u16>,
}

/// `None` for a pod that is no agent's.
pub(super) fn ports(labels: &BTreeMap<String, String>, spec: &PodSpec) -> Option<Ports> {
    let (label, value) = AGENT_LABEL.split_once('=')?;
    if labels.get(label).is_none_or(|found| found != value) {
        return None;
    }
    let mut all = spec
        .containers
        .iter()
        .flat_map(|one| one.ports.iter().flatten());
    let named = all.find(|port| port.name.as_deref() == Some(PORT.0));
    Some(Ports {
        hubble: named.and_then(|port| u16::try_from(port.container_port).ok()),
    })
}

/// Those of a namespace that are on a node and have an address. While a pod takes another's place
/// either will do: both have the node's address.
pub(super) fn agents<'a>(pods: impl Iterator<Item = &'a PodRecord>, namespace: &str) -> Agents {
    let at = |record: &PodRecord| {
        let ports = record.agent?;
        let there = !record.finished
            && record.pod.name.namespace == namespace
            && !record.pod.node.is_empty();
        let ip = *record.pod.ips.first().filter(|_| there)?;
        let port = ports.hubble;
        Some((record.pod.node.clone(), AgentAt { ip, port }))
    };
    pods.filter_map(at).collect()
}
