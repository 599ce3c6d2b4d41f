//! Services by address and port, and what is behind them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::{ObjectName, Protocol};

use super::shards::Shards;
use super::trim::SliceRecord;

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
    backends: Shards<ObjectName, Arc<[Backend]>>,
    /// Addresses that the API server answers at.
    api_servers: Arc<[IpAddr]>,
}

/// Services by address; they are given by their places in `all`.
#[derive(Debug, Default)]
struct Index {
    by_address: HashMap<(IpAddr, Protocol, u16), usize>,
    by_node_port: HashMap<(Protocol, u16), usize>,
    by_ip: HashMap<IpAddr, usize>,
    all: Vec<Service>,
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

    /// Takes over the endpoints of the services named, of all `slices` that there are.
    pub(super) fn set_backends<'a>(
        &mut self,
        of: &HashSet<ObjectName>,
        slices: impl Iterator<Item = &'a SliceRecord>,
    ) {
        let mut found: HashMap<&ObjectName, Vec<&SliceRecord>> = HashMap::new();
        for slice in slices {
            if let Some(service) = slice.service.as_ref().filter(|name| of.contains(*name)) {
                found.entry(service).or_default().push(slice);
            }
        }
        for service in of {
            let mut parts = found.remove(service).unwrap_or_default();
            parts.sort_by(|a, b| a.name.cmp(&b.name));
            let backends: Arc<[Backend]> = match parts.as_slice() {
                [one] => one.backends.clone(),
                several => several
                    .iter()
                    .flat_map(|part| part.backends.iter().cloned())
                    .collect(),
            };
            if (&*service.namespace, &*service.name) == API_SERVICE {
                self.api_servers = backends.iter().map(|backend| backend.ip).collect();
            }
            if parts.is_empty() {
                self.backends.remove(service);
            } else {
                self.backends.insert(service.clone(), backends);
            }
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
        self.backends.get(service).map_or(&[], |all| all)
    }

    pub(super) fn is_api_server(&self, ip: IpAddr) -> bool {
        self.api_servers.contains(&ip)
    }

    pub(super) fn all(&self) -> &[Service] {
        &self.index.all
    }
}
