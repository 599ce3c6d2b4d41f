//! API objects cut down to what naming needs, as they arrive.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::flow::{Node, ObjectName, Pod, Protocol, Workload};

use super::masquerade::{self, MasqueradeRecord};
use super::peers;
use super::services::{Backend, Service, ServicePort};
use super::wire::{self, Meta};

/// What an object is known by within its kind.
pub(super) trait Named {
    /// Namespace (empty for nodes) and name.
    fn key(&self) -> (&str, &str);
}

/// A pod and what decides whose its addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodRecord {
    pub(super) pod: Arc<Pod>,
    /// Its addresses are the node's.
    pub(super) host_network: bool,
    /// Phase Succeeded or Failed: the addresses are free again.
    pub(super) finished: bool,
    /// `status.startTime`, else the creation: no earlier can it have had an address.
    pub(super) started: Option<SystemTime>,
    /// When the last container ended, of a finished pod.
    pub(super) ended: Option<SystemTime>,
    /// Of an agent's pod: where its API is.
    pub(super) agent: Option<peers::Ports>,
}

impl PodRecord {
    /// Of a pod of which no more is known than an EndpointSlice tells.
    pub(super) fn learned(pod: Arc<Pod>) -> Self {
        Self {
            pod,
            host_network: false,
            finished: false,
            started: None,
            ended: None,
            agent: None,
        }
    }

    /// Probes come from the pod's own node: nobody asks for those of other nodes' pods.
    pub(super) fn forget_probes(&mut self) {
        if let Some(pod) = Arc::get_mut(&mut self.pod) {
            pod.probes = Vec::new();
        }
    }
}

/// The endpoints of one EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceRecord {
    pub(super) name: ObjectName,
    /// Label `kubernetes.io/service-name`.
    pub(super) service: Option<ObjectName>,
    pub(super) backends: Arc<[Backend]>,
    /// Pods behind the service, as far as a slice tells of them: name, addresses and node.
    pub(super) targets: Vec<Arc<Pod>>,
    /// Whether the service is labelled as that of the agents.
    pub(super) agents: bool,
}

impl Named for PodRecord {
    fn key(&self) -> (&str, &str) {
        key(&self.pod.name)
    }
}

impl Named for SliceRecord {
    fn key(&self) -> (&str, &str) {
        key(&self.name)
    }
}

impl Named for MasqueradeRecord {
    fn key(&self) -> (&str, &str) {
        key(&self.name)
    }
}

impl Named for Service {
    fn key(&self) -> (&str, &str) {
        key(&self.name)
    }
}

impl Named for Arc<Node> {
    fn key(&self) -> (&str, &str) {
        ("", &self.name)
    }
}

fn key(name: &ObjectName) -> (&str, &str) {
    (&name.namespace, &name.name)
}

/// Cuts a pod down.
pub(super) fn pod(pod: wire::Pod) -> PodRecord {
    let workload = workload(&pod.metadata);
    let created = pod.metadata.creation_timestamp.as_ref().map(time);
    let name = object_name(&pod.metadata);
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let probes = super::probes::of(&spec, &status);
    let labels = pod.metadata.labels.unwrap_or_default();
    let mut ips: Vec<IpAddr> = status
        .pod_ips
        .iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse().ok())
        .collect();
    if ips.is_empty() {
        ips.extend(
            status
                .pod_ip
                .iter()
                .filter_map(|ip| ip.parse::<IpAddr>().ok()),
        );
    }
    ips.shrink_to_fit();
    let ended = status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|container| {
            let ended = container.state.as_ref()?.terminated.as_ref()?;
            ended.finished_at.as_ref().map(time)
        });
    PodRecord {
        host_network: spec.host_network.unwrap_or(false),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        started: status.start_time.as_ref().map(time).or(created),
        ended: ended.max(),
        agent: peers::ports(&labels, &spec),
        pod: Arc::new(Pod {
            name,
            uid: pod.metadata.uid.unwrap_or_default(),
            ips,
            node: spec.node_name.unwrap_or_default().into(),
            workload: workload.map(Arc::new),
            labels: Arc::new(labels),
            probes,
        }),
    }
}

/// Cuts a node down.
pub(super) fn node(node: wire::Node) -> Arc<Node> {
    let spec = node.spec.unwrap_or_default();
    let max_pods = max_pods(node.status.as_ref());
    let cidrs = spec
        .pod_cidrs
        .unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let addresses = node
        .status
        .unwrap_or_default()
        .addresses
        .unwrap_or_default();
    let own = addresses
        .iter()
        .filter(|a| matches!(a.type_.as_str(), "InternalIP" | "ExternalIP"));
    Arc::new(Node {
        name: node.metadata.name.unwrap_or_default(),
        ips: own
            .filter_map(|address| address.address.parse().ok())
            .collect(),
        pod_cidrs: cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
        max_pods,
    })
}

/// `status.allocatable.pods`: how many pods the kubelet takes, hostNetwork pods included.
fn max_pods(status: Option<&wire::NodeStatus>) -> Option<u32> {
    status?.allocatable.as_ref()?.get("pods")?.0.parse().ok()
}

/// Cuts a ConfigMap of a masquerade agent down.
pub(super) fn masquerade(map: wire::ConfigMap) -> MasqueradeRecord {
    let name = object_name(&map.metadata);
    MasqueradeRecord {
        rules: masquerade::parse(&name.name, &map.data.unwrap_or_default()),
        name,
    }
}

/// Cuts a service down.
pub(super) fn service(service: wire::Service) -> Service {
    let name = object_name(&service.metadata);
    let spec = service.spec.unwrap_or_default();
    let balancer = service
        .status
        .and_then(|status| status.load_balancer)
        .unwrap_or_default();
    let parse = |ips: Vec<String>| -> Vec<IpAddr> {
        // Headless services say "None" here.
        ips.iter().filter_map(|ip| ip.parse().ok()).collect()
    };
    let ingress = balancer
        .ingress
        .unwrap_or_default()
        .into_iter()
        .filter_map(|point| point.ip);
    Service {
        name,
        kind: spec.type_.unwrap_or_else(|| "ClusterIP".to_owned()),
        cluster_ips: parse(
            spec.cluster_ips
                .unwrap_or_else(|| spec.cluster_ip.into_iter().collect()),
        ),
        external_ips: parse(
            ingress
                .chain(spec.external_ips.unwrap_or_default())
                .collect(),
        ),
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .map(service_port)
            .collect(),
        local_policy: spec.external_traffic_policy.as_deref() == Some("Local"),
        health_check_node_port: spec.health_check_node_port.and_then(port),
    }
}

fn service_port(from: core::ServicePort) -> ServicePort {
    ServicePort {
        name: from.name.unwrap_or_default(),
        protocol: protocol(from.protocol.as_deref()),
        port: port(from.port).unwrap_or_default(),
        node_port: from.node_port.and_then(port),
    }
}

/// Cuts an EndpointSlice down.
pub(super) fn slice(slice: wire::Slice) -> SliceRecord {
    let name = object_name(&slice.metadata);
    let labels = slice.metadata.labels.unwrap_or_default();
    let service = labels
        .get("kubernetes.io/service-name")
        .map(|service| ObjectName {
            namespace: name.namespace.clone(),
            name: service.clone(),
        });
    let ports: Vec<(u16, Protocol, Arc<str>)> = slice
        .ports
        .into_iter()
        .flatten()
        .map(|from| {
            (
                from.port.and_then(port).unwrap_or_default(),
                protocol(from.protocol.as_deref()),
                from.name.unwrap_or_default().into(),
            )
        })
        .collect();
    let (mut backends, mut targets) = (Vec::new(), Vec::new());
    for endpoint in slice.endpoints.unwrap_or_default() {
        // Not said means ready (EndpointConditions of discovery/v1).
        let ready = endpoint
            .conditions
            .and_then(|said| said.ready)
            .unwrap_or(true);
        let node: Option<Arc<str>> = endpoint.node_name.map(Into::into);
        let addresses = endpoint.addresses.iter().flatten();
        let ips: Vec<IpAddr> = addresses.filter_map(|ip| ip.parse().ok()).collect();
        for ip in &ips {
            for (port, protocol, port_name) in &ports {
                backends.push(Backend {
                    ip: *ip,
                    port: *port,
                    protocol: *protocol,
                    port_name: port_name.clone(),
                    node: node.clone(),
                    ready,
                });
            }
        }
        targets.extend(endpoint.target_ref.and_then(|to| target(to, ips, node)));
    }
    SliceRecord {
        agents: peers::is_labelled(&labels),
        name,
        service,
        backends: backends.into(),
        targets,
    }
}

/// What an endpoint tells of the pod that it is.
fn target(to: core::ObjectReference, ips: Vec<IpAddr>, node: Option<Arc<str>>) -> Option<Arc<Pod>> {
    if to.kind.as_deref() != Some("Pod") || ips.is_empty() {
        return None;
    }
    Some(Arc::new(Pod {
        name: ObjectName {
            namespace: to.namespace.unwrap_or_default(),
            name: to.name?,
        },
        uid: to.uid.unwrap_or_default(),
        ips,
        node: node.unwrap_or_default(),
        ..Pod::default()
    }))
}

fn object_name(meta: &Meta) -> ObjectName {
    ObjectName {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// The controller that people know: a ReplicaSet whose name ends with the pod's template hash is
/// a Deployment's, a Job whose name ends with a time in minutes is a CronJob's.
fn workload(meta: &Meta) -> Option<Workload> {
    let owners = meta.owner_references.as_deref()?;
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    let known = |name: &str, kind: &str| {
        Some(Workload {
            name: name.to_owned(),
            kind: kind.to_owned(),
        })
    };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = meta
                .labels
                .as_ref()
                .and_then(|labels| labels.get("pod-template-hash"));
            let stem = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str()));
            match stem.and_then(|stem| stem.strip_suffix('-')) {
                Some(name) => known(name, "Deployment"),
                None => known(&owner.name, "ReplicaSet"),
            }
        }
        "Job" => match owner.name.rsplit_once('-') {
            Some((name, at)) if at.len() >= 8 && at.bytes().all(|b| b.is_ascii_digit()) => {
                known(name, "CronJob")
            }
            _ => known(&owner.name, "Job"),
        },
        kind => known(&owner.name, kind),
    }
}

fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        // The API's default.
        _ => Protocol::TCP,
    }
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn time(time: &Time) -> SystemTime {
    SystemTime::from(time.0)
}
