//! Which probe a connection is: by who asks, and by what the API says of the port.

use std::time::Duration;

use super::answer::Request;
use crate::cluster::{Inventory, Local, Service};
use crate::flow::{Flow, ObjectName, Pod, ProbeHandler, ProbeKind, ProbeSpec, Protocol};

/// kube-proxy's own health port, which a load balancer asks for services whose policy is
/// `Cluster` (KubeProxyConfiguration `healthzBindAddress`).
pub const KUBE_PROXY: u16 = 10256;

/// What is probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A port of this node, by a load balancer.
    Lb {
        /// The service that it is about; none for kube-proxy's own port and unknown ones.
        service: Option<ObjectName>,
        /// The port.
        port: u16,
    },
    /// A container of a pod on this node, by the kubelet.
    Kubelet {
        /// The pod.
        pod: ObjectName,
        /// The container.
        container: String,
        /// Liveness, readiness or startup.
        kind: ProbeKind,
    },
}

impl Target {
    /// What the probe is for.
    pub fn kind(&self) -> ProbeKind {
        match self {
            Self::Lb { .. } => ProbeKind::Lb,
            Self::Kubelet { kind, .. } => *kind,
        }
    }

    /// Namespace and name for metrics: of the service or the pod, else of the port.
    pub fn labels(&self) -> (String, String) {
        match self {
            Self::Lb {
                service: Some(service),
                ..
            } => (service.namespace.clone(), service.name.clone()),
            Self::Lb {
                service: None,
                port: KUBE_PROXY,
            } => (String::new(), "kube-proxy".to_owned()),
            Self::Lb {
                service: None,
                port,
            } => (String::new(), format!("port-{port}")),
            Self::Kubelet { pod, .. } => (pod.namespace.clone(), pod.name.clone()),
        }
    }
}

/// The service whose health a load balancer asks for at a node's port.
pub fn service_of_port(inventory: &Inventory, port: u16) -> Option<ObjectName> {
    let healthcheck = |service: &&Service| service.health_check_node_port == Some(port);
    let found = inventory.exposed_services().find(healthcheck);
    found
        .map(|service| service.name.clone())
        .or_else(|| inventory.node_port(port, Protocol::TCP))
}

/// A load balancer's probe.
pub fn load_balancer(flow: &Flow, inventory: &Inventory) -> Option<Target> {
    if flow.tuple.protocol != Protocol::TCP || !inventory.is_probe_source(flow.tuple.source.ip()) {
        return None;
    }
    let port = flow.tuple.destination.port();
    let service = service_of_port(inventory, port).or_else(|| flow.destination_service.clone());
    Some(Target::Lb { service, port })
}

/// The pod's probes that a connection can be, if it comes from the node itself: those of its
/// port that fit what was asked. With nothing asked yet every one of the port fits.
pub fn kubelet<'a>(flow: &'a Flow, local: &Local, request: &Request) -> Vec<&'a ProbeSpec> {
    let Some(pod) = of_local_pod(flow, local) else {
        return Vec::new();
    };
    let port = flow.tuple.destination.port();
    let due = |spec: &&ProbeSpec| {
        // Until the startup probe has succeeded it is the only one of its container.
        let waits = pod
            .probes
            .iter()
            .any(|other| other.container == spec.container && other.kind == ProbeKind::Startup);
        !waits || (spec.kind == ProbeKind::Startup) != spec.started
    };
    pod.probes
        .iter()
        .filter(|spec| spec.port == port && fits(spec, request))
        .filter(due)
        .collect()
}

fn of_local_pod<'a>(flow: &'a Flow, local: &Local) -> Option<&'a Pod> {
    let from_node = flow.tuple.protocol == Protocol::TCP && local.owns(flow.tuple.source.ip());
    let pod = flow.destination.pod()?;
    let direct = flow.nat.translated.destination == flow.tuple.destination;
    (from_node && direct && *pod.node == *local.name()).then_some(&**pod)
}

fn fits(spec: &ProbeSpec, request: &Request) -> bool {
    match (request, &spec.handler) {
        (Request::None, _)
        | (Request::Http2, ProbeHandler::Grpc)
        | (Request::Tls, ProbeHandler::Https(_)) => true,
        (Request::Http { path, kube_probe }, ProbeHandler::Http(wanted)) => {
            path == wanted && (*kube_probe || spec.own_agent)
        }
        _ => false,
    }
}

/// How long a prober waits for the answer. Load balancers do not say: the smaller of their
/// interval and 30 s (Azure's rule for HTTP probes), 5 s while the interval is not known.
pub fn patience(spec: Option<Duration>, interval: Option<Duration>) -> Duration {
    const LONGEST: Duration = Duration::from_secs(30);
    const USUAL: Duration = Duration::from_secs(5);
    spec.unwrap_or_else(|| interval.map_or(USUAL, |interval| interval.min(LONGEST)))
}
