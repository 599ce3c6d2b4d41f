//! Services of the lab and the pods behind them.

use std::net::Ipv4Addr;

use super::pods::Pod;

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
}

/// An endpoint of a service.
#[derive(Clone, Debug)]
pub struct Endpoint<'a> {
    /// Its address.
    pub ip: Ipv4Addr,
    /// The pod that has it.
    pub pod: Option<&'a Pod>,
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
        }
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

    /// Whether it is of type NodePort.
    pub fn is_node_port(&self) -> bool {
        self.ports.iter().any(|port| port.node_port.is_some())
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
