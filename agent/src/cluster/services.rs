//! Services by address and port, and what is behind them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::{ObjectName, Protocol};

use super::shards::Shards;

/// The service of the API itself, whose endpoints its servers keep up to date.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty when it has none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port of the service's own addresses.
    pub port: u16,
    /// The port of every node, if it has one.
    pub node_port: Option<u16>,
}

/// A service, cut down to what is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub kind: String,
    /// Cluster IPs; empty for headless services.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses of the load balancer, and `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `externalTrafficPolicy: Local`.
    pub local_policy: bool,
    /// `healthCheckNodePort` of a `Local` service.
    pub health_check_node_port: Option<u16>,
}

impl Service {
    /// Whether a load balancer can ask a node about it.
    pub fn is_exposed(&self) -> bool {
        let mut ports = self.ports.iter();
        self.health_check_node_port.is_some() || ports.any(|port| port.node_port.is_some())
    }
}

/// One endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Name of the service port that it is behind.
    pub port_name: Arc<str>,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// Condition `ready`.
    pub ready: bool,
}

/// All services, indexed. Cheap to clone: what did not change is shared.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    index: Arc<Index>,
    behind: Shards<ObjectName, Behind>,
    /// Addresses that the API server answers at.
    api_servers: Arc<[IpAddr]>,
}

/// What is behind a service.
#[derive(Clone, Debug, Default)]
struct Behind {
    /// By slice, in the order of their names.
    parts: Arc<[Part]>,
    /// All of it; where there is one slice, that one's.
    all: Arc<[Backend]>,
}

/// What one slice tells.
#[derive(Clone, Debug)]
struct Part {
    slice: Arc<str>,
    backends: Arc<[Backend]>,
}

/// A service has other endpoints than before.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    /// The service.
    pub(super) service: ObjectName,
    /// The slice that tells, in the service's namespace.
    pub(super) slice: Arc<str>,
    /// What it tells; `None` for one that is gone, or of another service now.
    pub(super) backends: Option<Arc<[Backend]>>,
}

/// Services by address; they are given by their places in `all`.
#[derive(Debug, Default)]
struct Index {
    by_address: HashMap<(IpAddr, Protocol, u16), usize>,
    by_node_port: HashMap<(Protocol, u16), usize>,
    by_ip: HashMap<IpAddr, usize>,
    all: Vec<Service>,
    /// Those that load balancers can ask a node about.
    exposed: Vec<usize>,
}

impl Index {
    fn new<'a>(services: impl Iterator<Item = &'a Service>) -> Self {
        let mut index = Self {
            all: services.cloned().collect(),
            ..Self::default()
        };
        // Two services that share an address (a load balancer can) go by port; by address alone
        // the first by name stands for both, the same one at every rebuild.
        index.all.sort_by(|a, b| a.name.cmp(&b.name));
        for (at, service) in index.all.iter().enumerate() {
            for ip in service.cluster_ips.iter().chain(&service.external_ips) {
                index.by_ip.entry(*ip).or_insert(at);
                for port in &service.ports {
                    let key = (*ip, port.protocol, port.port);
                    index.by_address.entry(key).or_insert(at);
                }
            }
            for port in &service.ports {
                if let Some(number) = port.node_port {
                    index.by_node_port.insert((port.protocol, number), at);
                }
            }
        }
        let all = index.all.iter().enumerate();
        index.exposed = all
            .filter(|(_, service)| service.is_exposed())
            .map(|(at, _)| at)
            .collect();
        index
    }

    fn name(&self, at: Option<&usize>) -> Option<&ObjectName> {
        self.all.get(*at?).map(|service| &service.name)
    }
}

impl Services {
    /// Takes over all services.
    pub(super) fn set_services<'a>(&mut self, services: impl Iterator<Item = &'a Service>) {
        self.index = Arc::new(Index::new(services));
    }

    /// Takes over that a service has other endpoints by one of its slices.
    pub(super) fn change(&mut self, moved: Moved) {
        let Moved {
            service,
            slice,
            backends,
        } = moved;
        let behind = self.behind.get(&service).cloned().unwrap_or_default();
        let mut parts = behind.parts.to_vec();
        let at = parts.binary_search_by(|part| part.slice.cmp(&slice));
        match (at, backends) {
            (Ok(at), Some(backends)) => parts[at].backends = backends,
            (Ok(at), None) => drop(parts.remove(at)),
            (Err(at), Some(backends)) => parts.insert(at, Part { slice, backends }),
            (Err(_), None) => return,
        }
        let all: Arc<[Backend]> = match parts.as_slice() {
            [one] => one.backends.clone(),
            several => {
                let backends = several.iter().flat_map(|part| part.backends.iter());
                backends.cloned().collect()
            }
        };
        if (&*service.namespace, &*service.name) == API_SERVICE {
            self.api_servers = all.iter().map(|backend| backend.ip).collect();
        }
        if parts.is_empty() {
            self.behind.remove(&service);
        } else {
            let parts = parts.into();
            self.behind.insert(service, Behind { parts, all });
        }
    }

    pub(super) fn at(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Option<&ObjectName> {
        let index = &self.index;
        index.name(index.by_address.get(&(ip, protocol, port)))
    }

    pub(super) fn at_node_port(&self, port: u16, protocol: Protocol) -> Option<&ObjectName> {
        let index = &self.index;
        index.name(index.by_node_port.get(&(protocol, port)))
    }

    pub(super) fn of_ip(&self, ip: IpAddr) -> Option<&ObjectName> {
        self.index.name(self.index.by_ip.get(&ip))
    }

    pub(super) fn backends(&self, service: &ObjectName) -> &[Backend] {
        let behind = self.behind.get(service);
        behind.map_or(&[], |behind| &behind.all)
    }

    pub(super) fn is_api_server(&self, ip: IpAddr) -> bool {
        self.api_servers.contains(&ip)
    }

    pub(super) fn all(&self) -> &[Service] {
        &self.index.all
    }

    pub(super) fn exposed(&self) -> impl Iterator<Item = &Service> {
        let index = &self.index;
        index.exposed.iter().filter_map(|at| index.all.get(*at))
    }
}
