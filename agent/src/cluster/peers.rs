//! The agents of the cluster, by the pods of their DaemonSet: where a relay finds them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::agents::{AGENT_LABEL, PORT};
use super::trim::{PodRecord, SliceRecord};
use super::wire::PodSpec;

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

/// Whether an object is labelled as the agents' are.
pub(super) fn is_labelled(labels: &BTreeMap<String, String>) -> bool {
    AGENT_LABEL
        .split_once('=')
        .is_some_and(|(label, value)| labels.get(label).is_some_and(|found| found == value))
}

/// `None` for a pod that is no agent's.
pub(super) fn ports(labels: &BTreeMap<String, String>, spec: &PodSpec) -> Option<Ports> {
    if !is_labelled(labels) {
        return None;
    }
    let mut all = spec
        .containers
        .iter()
        .flatten()
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
        Some((record.pod.node.to_string(), AgentAt { ip, port }))
    };
    pods.filter_map(at).collect()
}

/// The same from the endpoints of the agents' service, where the pods of other nodes are not
/// watched.
pub(super) fn agents_behind<'a>(
    slices: impl Iterator<Item = &'a SliceRecord>,
    namespace: &str,
) -> Agents {
    let own = slices.filter(|slice| slice.agents && slice.name.namespace == namespace);
    let backends = own.flat_map(|slice| slice.backends.iter());
    let named = backends.filter(|backend| &*backend.port_name == PORT.0);
    let at = named.filter_map(|backend| {
        let port = Some(backend.port);
        let ip = backend.ip;
        Some((backend.node.as_deref()?.to_owned(), AgentAt { ip, port }))
    });
    at.collect()
}
