//! Services of the lab and the pods behind them.

use std::net::Ipv4Addr;

use super::names;
use super::pods::Pod;
use super::topology::Topology;

/// A transport protocol, as Kubernetes writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `TCP` or `UDP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// `tcp` or `udp`.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster; the client's address is lost.
    #[default]
    Cluster,
    /// Only endpoints on the node that the packet came to; the client's address is kept.
    Local,
}

impl TrafficPolicy {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// What the cloud's load balancer probes for a service of policy Cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterProbe {
    /// The service's first TCP node port.
    #[default]
    NodePort,
    /// kube-proxy's `:10256/healthz`.
    KubeProxy,
}

/// A port of a service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the ClusterIP.
    pub port: u16,
    /// The port on the backend.
    pub target: u16,
    /// The port on every node, for a NodePort service.
    pub node_port: Option<u16>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The label that selects its pods; none for a service whose endpoints are given.
    pub selector: Option<(String, String)>,
    /// Endpoints that are no pods (the service `kubernetes`).
    pub fixed_endpoints: Vec<Ipv4Addr>,
    /// Its ClusterIP.
    pub cluster_ip: Ipv4Addr,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The load balancer's address, for a LoadBalancer service.
    pub vip: Option<Ipv4Addr>,
    /// Which endpoints traffic from outside reaches.
    pub policy: TrafficPolicy,
    /// `healthCheckNodePort`, with policy Local and a load balancer.
    pub health_port: Option<u16>,
    /// How long a client stays with its endpoint, in seconds; none without session affinity.
    pub affinity_seconds: Option<u32>,
    /// What the load balancer probes with policy Cluster.
    pub cluster_probe: ClusterProbe,
}

/// An endpoint of a service.
#[derive(Clone, Debug)]
pub struct Endpoint<'a> {
    /// Its address.
    pub ip: Ipv4Addr,
    /// The pod that has it.
    pub pod: Option<&'a Pod>,
}

impl Endpoint<'_> {
    /// Whether it takes new connections: it serves, and does not end.
    pub fn ready(&self) -> bool {
        self.serving() && !self.terminating()
    }

    /// Whether its pod is ready.
    pub fn serving(&self) -> bool {
        self.pod.is_none_or(Pod::is_ready)
    }

    /// Whether its pod is being ended.
    pub fn terminating(&self) -> bool {
        self.pod.is_some_and(Pod::is_terminating)
    }
}

impl Service {
    /// A service without ports that selects pods by `app=<name>`.
    pub fn new(namespace: &str, name: &str, cluster_ip: Ipv4Addr) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            selector: Some(("app".to_owned(), name.to_owned())),
            fixed_endpoints: Vec::new(),
            cluster_ip,
            ports: Vec::new(),
            vip: None,
            policy: TrafficPolicy::Cluster,
            health_port: None,
            affinity_seconds: None,
            cluster_probe: ClusterProbe::NodePort,
        }
    }

    /// Gives it a load balancer at `vip`, and node ports to its ports so far that have none.
    #[must_use]
    pub fn load_balancer(mut self, vip: Ipv4Addr) -> Self {
        self.vip = Some(vip);
        let name = format!("{}/{}", self.namespace, self.name);
        for port in &mut self.ports {
            let seed = format!("{name}:{}", port.name);
            port.node_port.get_or_insert(names::node_port(&seed));
        }
        self
    }

    /// Sets policy Local; `health_port` is where each node tells of its endpoints.
    #[must_use]
    pub fn local(mut self, health_port: u16) -> Self {
        self.policy = TrafficPolicy::Local;
        self.health_port = Some(health_port);
        self
    }

    /// Keeps clients with their endpoint for `seconds` (`sessionAffinity: ClientIP`).
    #[must_use]
    pub fn session_affinity(mut self, seconds: u32) -> Self {
        self.affinity_seconds = Some(seconds);
        self
    }

    /// Has the load balancer probe kube-proxy instead of the node port.
    #[must_use]
    pub fn probe_kube_proxy(mut self) -> Self {
        self.cluster_probe = ClusterProbe::KubeProxy;
        self
    }

    /// The health-check node port that is in use.
    pub fn health_check_port(&self) -> Option<u16> {
        let local = self.policy == TrafficPolicy::Local && self.vip.is_some();
        self.health_port.filter(|_| local)
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: Protocol, port: u16, target: u16) -> Self {
        self.ports.push(ServicePort {
            name: name.to_owned(),
            protocol,
            port,
            target,
            node_port: None,
        });
        self
    }

    /// Makes the last port reachable on `node_port` of every node.
    #[must_use]
    pub fn node_port(mut self, node_port: u16) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.node_port = Some(node_port);
        }
        self
    }

    /// Whether it can be reached from outside by a node port or a load balancer.
    pub fn is_external(&self) -> bool {
        self.vip.is_some() || self.ports.iter().any(|port| port.node_port.is_some())
    }

    /// `spec.type`.
    pub fn kind(&self) -> &'static str {
        match (self.vip, self.is_external()) {
            (Some(_), _) => "LoadBalancer",
            (None, true) => "NodePort",
            (None, false) => "ClusterIP",
        }
    }

    /// The endpoints that traffic may go to: the ready ones, or while there is none, those
    /// that end but still serve (kube-proxy, `CategorizeEndpoints`).
    pub fn usable<'a>(&self, pods: &'a [Pod], node: Option<usize>) -> Vec<Endpoint<'a>> {
        let mut all = self.endpoints(pods);
        all.retain(|e| node.is_none() || e.pod.map(Pod::node) == node);
        let ready = all.iter().any(Endpoint::ready);
        all.retain(|e| e.ready() || (!ready && e.serving() && e.terminating()));
        all
    }

    /// Its endpoints among `pods`, in the pods' order.
    pub fn endpoints<'a>(&self, pods: &'a [Pod]) -> Vec<Endpoint<'a>> {
        let fixed = self
            .fixed_endpoints
            .iter()
            .map(|ip| Endpoint { ip: *ip, pod: None });
        let selected = pods.iter().filter(|pod| {
            pod.spec().namespace == self.namespace
                && self.selector.as_ref() == Some(&pod.spec().label)
        });
        fixed
            .chain(selected.map(|pod| Endpoint {
                ip: pod.ip(),
                pod: Some(pod),
            }))
            .collect()
    }
}

/// The services that every lab starts with: `kubernetes`, `kube-dns`, and one for each of
/// the standard pods' apps.
pub fn standard(dns: Ipv4Addr, gateway: Ipv4Addr) -> Vec<Service> {
    let [a, b, ..] = dns.octets();
    let cluster_ip = |c, d| Ipv4Addr::new(a, b, c, d);
    let app = |name: &str, ip| {
        Service::new("default", name, ip)
            .port("http", Protocol::Tcp, 80, 8080)
            .port("echo", Protocol::Udp, 9000, 9000)
    };
    let mut kubernetes = Service::new("default", "kubernetes", cluster_ip(0, 1)).port(
        "https",
        Protocol::Tcp,
        443,
        443,
    );
    kubernetes.selector = None;
    kubernetes.fixed_endpoints = vec![gateway];
    let mut kube_dns = Service::new("kube-system", "kube-dns", dns)
        .port("dns", Protocol::Udp, 53, 53)
        .port("dns-tcp", Protocol::Tcp, 53, 53);
    kube_dns.selector = Some(("k8s-app".to_owned(), "kube-dns".to_owned()));
    vec![
        kubernetes,
        kube_dns,
        app("web", cluster_ip(37, 21)),
        app("web2", cluster_ip(112, 8)),
        app("api", cluster_ip(201, 84)),
    ]
}

/// Load balancers for a demonstration: `web-near` with policy Local, `api-open` with Cluster.
pub fn balanced(topology: &Topology) -> [Service; 2] {
    let [a, b, ..] = topology.dns.octets();
    let service = |name: &str, app: &str, number: u8| {
        let ip = Ipv4Addr::new(a, b, 140, number);
        let mut service = Service::new("default", name, ip)
            .port("http", Protocol::Tcp, 80, 8080)
            .load_balancer(topology.vip(number));
        service.selector = Some(("app".to_owned(), app.to_owned()));
        service
    };
    [
        service("web-near", "web", 1).local(names::node_port("web-near")),
        service("api-open", "api", 2),
    ]
}
