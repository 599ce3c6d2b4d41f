//! Services by address and port, and what is behind them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::flow::{ObjectName, Protocol};

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
    pub port_name: String,
    /// The node that it is on.
    pub node: Option<String>,
    /// Condition `ready`.
    pub ready: bool,
}

/// All services, indexed.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    by_address: HashMap<(IpAddr, Protocol, u16), ObjectName>,
    by_node_port: HashMap<(Protocol, u16), ObjectName>,
    by_ip: HashMap<IpAddr, ObjectName>,
    backends: HashMap<ObjectName, Vec<Backend>>,
    /// Addresses that the API server answers at.
    api_servers: Vec<IpAddr>,
    all: Vec<Service>,
}

impl Services {
    pub(super) fn build<'a>(
        services: impl Iterator<Item = &'a Service>,
        slices: impl Iterator<Item = &'a SliceRecord>,
    ) -> Self {
        let mut index = Self {
            all: services.cloned().collect(),
            ..Self::default()
        };
        // Two services that share an address (a load balancer can) go by port; by address alone
        // the first by name stands for both, the same one at every rebuild.
        index.all.sort_by(|a, b| a.name.cmp(&b.name));
        for service in &index.all {
            for ip in service.cluster_ips.iter().chain(&service.external_ips) {
                index
                    .by_ip
                    .entry(*ip)
                    .or_insert_with(|| service.name.clone());
                for port in &service.ports {
                    let key = (*ip, port.protocol, port.port);
                    index
                        .by_address
                        .entry(key)
                        .or_insert_with(|| service.name.clone());
                }
            }
            for port in &service.ports {
                if let Some(number) = port.node_port {
                    index
                        .by_node_port
                        .insert((port.protocol, number), service.name.clone());
                }
            }
        }
        for slice in slices {
            if let Some(service) = &slice.service {
                if (&*service.namespace, &*service.name) == API_SERVICE {
                    index
                        .api_servers
                        .extend(slice.backends.iter().map(|backend| backend.ip));
                }
                let known = index.backends.entry(service.clone()).or_default();
                known.extend(slice.backends.iter().cloned());
            }
        }
        index
    }

    pub(super) fn at(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Option<&ObjectName> {
        self.by_address.get(&(ip, protocol, port))
    }

    pub(super) fn at_node_port(&self, port: u16, protocol: Protocol) -> Option<&ObjectName> {
        self.by_node_port.get(&(protocol, port))
    }

    pub(super) fn of_ip(&self, ip: IpAddr) -> Option<&ObjectName> {
        self.by_ip.get(&ip)
    }

    pub(super) fn backends(&self, service: &ObjectName) -> &[Backend] {
        self.backends.get(service).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_api_server(&self, ip: IpAddr) -> bool {
        self.api_servers.contains(&ip)
    }

    pub(super) fn all(&self) -> &[Service] {
        &self.all
    }
}
