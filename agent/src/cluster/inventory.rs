//! The cluster at one instant, immutable: what the rest of the agent asks.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::flow::{Identity, Node, ObjectName, Pod, Protocol};

use super::addresses::Addresses;
use super::config::{AZURE_PLATFORM, Overrides};
use super::masquerade::{self, Masquerade};
use super::nodes::Nodes;
use super::services::{Backend, Service, Services};

/// Instance metadata, of every large cloud.
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// The cloud platform's addresses.
pub const PLATFORM: [IpAddr; 2] = [AZURE_PLATFORM, METADATA];

/// Whether the address is one of the cloud platform's: 168.63.129.16 or 169.254.169.254.
pub fn is_platform(ip: IpAddr) -> bool {
    PLATFORM.contains(&ip)
}

/// Everything known of the cluster. Empty before the API has answered, and without one.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub(super) addresses: Arc<Addresses>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) services: Arc<Services>,
    pub(super) overrides: Arc<Overrides>,
    pub(super) masquerade: Arc<Masquerade>,
    /// Pods with the node's own address, by node.
    pub(super) host_network: Arc<HashMap<Arc<str>, u32>>,
    /// The agent's node, empty where nobody said which, and its pods with an address of their own,
    /// once for each.
    pub(super) here: (Arc<str>, Arc<[Arc<Pod>]>),
    /// Objects of each kind, in the order of [`super::KINDS`].
    pub(super) counts: [usize; 5],
    /// Whether the first full list of each kind has arrived.
    pub(super) listed: [bool; 5],
}

impl Inventory {
    /// One that knows what the configuration says, and nothing else.
    pub fn new(overrides: Overrides) -> Self {
        let masquerade = masquerade::unite(&overrides.non_masquerade, std::iter::empty(), false);
        Self {
            masquerade: Arc::new(masquerade),
            overrides: Arc::new(overrides),
            ..Self::default()
        }
    }

    /// Whose address it was at that time. Own addresses of the agent's node that the API does
    /// not list are [`super::Local`]'s to know.
    pub fn identify(&self, ip: IpAddr, at: SystemTime) -> Identity {
        if is_platform(ip) {
            return Identity::Platform;
        }
        if let Some(node) = self.nodes.at(ip) {
            return Identity::Node(node.clone());
        }
        if let Some(pod) = self.addresses.holder(ip, at) {
            return Identity::Pod(pod.clone());
        }
        if let Some(service) = self.services.of_ip(ip) {
            return Identity::Service(service.clone());
        }
        if let Some(node) = self.nodes.of_gateway(ip) {
            return Identity::Node(node.clone());
        }
        if self.is_pod_range(ip) {
            return Identity::UnknownPod;
        }
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&ip));
        if within(&self.overrides.service_cidrs) {
            // A service address that no service has.
            return Identity::Unknown;
        }
        if within(&self.overrides.node_cidrs) {
            let node = Node {
                name: ip.to_string(),
                ips: vec![ip],
                ..Node::default()
            };
            return Identity::Node(Arc::new(node));
        }
        Identity::World
    }

    /// The pod that had the address at that time, if the API knows.
    pub fn pod_at(&self, ip: IpAddr, at: SystemTime) -> Option<&Arc<Pod>> {
        self.addresses.holder(ip, at)
    }

    /// The service that answers at this address and port: cluster IPs, load-balancer addresses,
    /// external IPs, and node ports of every node.
    pub fn service(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Option<ObjectName> {
        let own = self.services.at(ip, port, protocol);
        let on_node = || {
            self.nodes
                .at(ip)
                .and_then(|_| self.services.at_node_port(port, protocol))
        };
        own.or_else(on_node).cloned()
    }

    /// The service with this node port.
    pub fn node_port(&self, port: u16, protocol: Protocol) -> Option<ObjectName> {
        self.services.at_node_port(port, protocol).cloned()
    }

    /// Whether the Kubernetes API is served at this address: an endpoint of the service
    /// `default/kubernetes`.
    pub fn is_api_server(&self, ip: IpAddr) -> bool {
        self.services.is_api_server(ip)
    }

    /// The endpoints of a service, from its EndpointSlices.
    pub fn service_backends(&self, service: &ObjectName) -> &[Backend] {
        self.services.backends(service)
    }

    /// All services, sorted by name.
    pub fn services(&self) -> &[Service] {
        self.services.all()
    }

    /// Those with a port on the nodes, sorted by name.
    pub fn exposed_services(&self) -> impl Iterator<Item = &Service> {
        self.services.exposed()
    }

    /// Whether this one and another have the same services, with the same endpoints, and the same
    /// pods on the agent's node: then nothing that health probes are about differs.
    pub fn is_probed_alike(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.services, &other.services)
            && Arc::ptr_eq(&self.here.1, &other.here.1)
            && self.is_complete() == other.is_complete()
    }

    /// Whether the address is a service's, or in a configured service range.
    pub fn is_service_ip(&self, ip: IpAddr) -> bool {
        self.services.of_ip(ip).is_some()
            || self
                .overrides
                .service_cidrs
                .iter()
                .any(|range| range.contains(&ip))
    }

    /// Whether the address is in a range that pods have theirs from.
    pub fn is_pod_range(&self, ip: IpAddr) -> bool {
        match self.overrides.pod_cidrs.as_slice() {
            [] => self.nodes.of_pod_ip(ip).is_some(),
            ranges => ranges.iter().any(|range| range.contains(&ip)),
        }
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.named(name)
    }

    /// The pod range of a node: from the API, else (where it is one range) from the configuration.
    pub fn pod_cidr_of(&self, node: &str) -> Option<IpNet> {
        let known = self
            .node(node)
            .and_then(|node| node.pod_cidrs.first().copied());
        known.or_else(|| self.overrides.pod_cidrs.first().copied())
    }

    /// The pod ranges of all nodes, as few as say the same: those of the configuration, else the
    /// nodes' own.
    pub fn pod_ranges(&self) -> Vec<IpNet> {
        match self.overrides.pod_cidrs.as_slice() {
            [] => IpNet::aggregate(&self.nodes.pod_ranges()),
            ranges => ranges.to_vec(),
        }
    }

    /// Whether the configuration says what the pod ranges are.
    pub fn pod_ranges_are_given(&self) -> bool {
        !self.overrides.pod_cidrs.is_empty()
    }

    /// Pods with an address of their own that a node has now.
    pub fn pods_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> + 'a {
        let own = !node.is_empty() && *self.here.0 == *node;
        // The agent asks for its own node's several times a second.
        let here = own.then(|| self.here.1.iter()).into_iter().flatten();
        let held = (!own).then(|| self.addresses.held());
        let there = held.into_iter().flatten();
        here.chain(there.filter(move |pod| *pod.node == *node))
    }

    /// Pods with an address of their own now, once for each.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.addresses.held()
    }

    /// Addresses that pods have now.
    pub fn pod_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.in_use()
    }

    /// Addresses of all nodes.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.nodes.addresses()
    }

    /// Pods on a node that have the node's own address and are not over.
    pub fn host_network_pods(&self, node: &str) -> u32 {
        self.host_network.get(node).copied().unwrap_or_default()
    }

    /// What the masquerade agents' ConfigMaps, or the flag, say.
    pub fn masquerade(&self) -> &Masquerade {
        &self.masquerade
    }

    /// The service of this name.
    pub fn service_named(&self, name: &ObjectName) -> Option<&Service> {
        let all = self.services.all();
        let at = all
            .binary_search_by(|service| service.name.cmp(name))
            .ok()?;
        all.get(at)
    }

    /// Whether load-balancer probes come from this address.
    pub fn is_probe_source(&self, ip: IpAddr) -> bool {
        self.overrides.probe_sources.contains(&ip)
    }

    /// How many objects of each kind are known.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> + use<> {
        super::KINDS.into_iter().zip(self.counts)
    }

    /// Whether every kind has been listed in full once.
    pub fn is_complete(&self) -> bool {
        self.listed.iter().all(|listed| *listed)
    }
}
