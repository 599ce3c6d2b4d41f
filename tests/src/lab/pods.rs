//! Pods: what is asked for, and what runs.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use super::names;
use super::netns::Netns;
use super::probes::{Probe, ProbeKind};
use super::process::{Finished, Proc, lab_command};
use super::run_dir::RUN_ROOT;
use super::services::Protocol;
use super::topology::Topology;

/// What to start.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Its short name, unique in the lab: the namespace is `ns-lab<lab>-pod-<short>`.
    pub short: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// The Deployment it belongs to.
    pub app: String,
    /// The label that its Deployment and services select it by: `app=<app>`, unless set.
    pub label: (String, String),
    /// The index of its node.
    pub node: usize,
    /// Its address; none takes the next free one of the node.
    pub ip: Option<Ipv4Addr>,
    /// Ports that its container declares: name, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
    /// Servers of the lab binary that run in it from the start, each an argument vector.
    pub programs: Vec<Vec<String>>,
    /// A program of the lab binary that starts the moment the pod's interface is usable.
    pub entrypoint: Option<Vec<String>>,
    /// What the kubelet probes.
    pub probes: Vec<Probe>,
}

impl PodSpec {
    /// A pod on node `node` in the namespace `default` whose app is its name; nothing runs
    /// in it.
    pub fn new(short: &str, node: usize) -> Self {
        Self {
            short: short.to_owned(),
            namespace: "default".to_owned(),
            app: short.to_owned(),
            label: ("app".to_owned(), short.to_owned()),
            node,
            ip: None,
            ports: Vec::new(),
            programs: Vec::new(),
            entrypoint: None,
            probes: Vec::new(),
        }
    }

    /// Sets its Kubernetes namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    /// Makes it a replica of the Deployment `app`.
    #[must_use]
    pub fn app(mut self, app: &str) -> Self {
        self.app = app.to_owned();
        self.label = ("app".to_owned(), app.to_owned());
        self
    }

    /// Sets the label that it is selected by.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.label = (key.to_owned(), value.to_owned());
        self
    }

    /// Sets its address.
    #[must_use]
    pub fn ip(mut self, ip: Ipv4Addr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// Declares a container port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: Protocol, port: u16) -> Self {
        self.ports.push((name.to_owned(), protocol, port));
        self
    }

    /// Runs a client of the lab binary in it the moment its interface is usable, before
    /// services, nodes and API server know it: its end is [`super::Lab::finished`].
    #[must_use]
    pub fn entrypoint(mut self, args: &[&str]) -> Self {
        self.entrypoint = Some(args.iter().map(|arg| (*arg).to_owned()).collect());
        self
    }

    /// Runs a server of the lab binary in it from the start; the pod is up when it listens.
    #[must_use]
    pub fn program(mut self, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.programs.push(args);
        self
    }

    /// Has the kubelet of its node probe it; a probe replaces another of its kind.
    #[must_use]
    pub fn probe(mut self, probe: Probe) -> Self {
        self.probes.retain(|other| other.kind != probe.kind);
        self.probes.push(probe);
        self
    }

    /// An application server: HTTP on TCP 8080, echo on UDP 9000.
    #[must_use]
    pub fn serving(self) -> Self {
        self.port("http", Protocol::Tcp, 8080)
            .port("echo", Protocol::Udp, 9000)
            .program(&["serve-http", "--listen", "0.0.0.0:8080"])
            .program(&["serve-echo", "--udp", "0.0.0.0:9000"])
    }
}

/// A pod that runs: cheap to clone, tells nothing new after the pod is removed.
#[derive(Clone, Debug)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: PodSpec,
    lab: String,
    ip: Ipv4Addr,
    host_interface: String,
    ready: AtomicBool,
    terminating: AtomicBool,
}

impl Pod {
    pub(super) fn new(spec: PodSpec, lab: &str, ip: Ipv4Addr, host_interface: String) -> Self {
        Self {
            inner: Arc::new(Inner {
                spec,
                lab: lab.to_owned(),
                ip,
                host_interface,
                ready: AtomicBool::new(true),
                terminating: AtomicBool::new(false),
            }),
        }
    }

    /// What it was made from.
    pub fn spec(&self) -> &PodSpec {
        &self.inner.spec
    }

    /// Its name in the lab.
    pub fn short(&self) -> &str {
        &self.inner.spec.short
    }

    /// Whether its condition Ready is true.
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::SeqCst)
    }

    /// Whether it is being ended.
    pub fn is_terminating(&self) -> bool {
        self.inner.terminating.load(Ordering::SeqCst)
    }

    /// Sets whether it is ready; the lab tells nodes and API server.
    pub(super) fn mark_ready(&self, ready: bool) {
        self.inner.ready.store(ready, Ordering::SeqCst);
    }

    /// Says that it is being ended.
    pub(super) fn mark_terminating(&self) {
        self.inner.terminating.store(true, Ordering::SeqCst);
    }

    /// The index of its node.
    pub fn node(&self) -> usize {
        self.inner.spec.node
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.inner.ip
    }

    /// The hardware address of its eth0.
    pub fn mac(&self) -> String {
        names::pod_mac(self.ip())
    }

    /// The host side of its eth0.
    pub fn host_interface(&self) -> &str {
        &self.inner.host_interface
    }

    /// The ReplicaSet that owns it: Deployment and pod-template hash.
    pub fn replica_set(&self) -> String {
        format!("{}-{}", self.spec().app, self.template_hash())
    }

    /// The label `pod-template-hash`.
    pub fn template_hash(&self) -> String {
        names::template_hash(&format!("{}/{}", self.spec().namespace, self.spec().app))
    }

    /// Its Kubernetes name.
    pub fn name(&self) -> String {
        let suffix = names::kube_suffix(&format!("{}/{}", self.short(), self.ip()), 5);
        format!("{}-{suffix}", self.replica_set())
    }

    /// Its network namespace.
    pub fn netns(&self) -> Netns {
        Netns::named(names::namespace(&self.inner.lab, &self.role()))
    }

    /// The role part of its namespace's name.
    pub fn role(&self) -> String {
        format!("pod-{}", self.short())
    }

    /// Runs a command inside to its end.
    pub fn run<S: AsRef<str>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.netns().run(argv)
    }

    /// Runs a program of the lab binary inside to its end.
    pub fn run_lab<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.netns().run_lab(args)
    }

    /// Starts the programs of its spec and waits until each says that it listens.
    pub(super) fn start_programs(&self, logs: &std::path::Path) -> Result<Vec<Proc>> {
        let spec = self.spec();
        start_programs(&self.netns(), &self.role(), &spec.programs, logs)
    }
}

/// Starts programs of the lab binary in `netns`; those that serve are waited for by
/// [`wait_listening`]. Output goes to `<logs>/<role>-<program>.out`.
pub(super) fn start_programs(
    netns: &Netns,
    role: &str,
    programs: &[Vec<String>],
    logs: &std::path::Path,
) -> Result<Vec<Proc>> {
    let run_dir = logs.parent().unwrap_or(std::path::Path::new(RUN_ROOT));
    programs
        .iter()
        .map(|args| {
            let program = args.first().map_or("", String::as_str);
            let args = args
                .iter()
                .map(|arg| arg.replace("{run}", &run_dir.display().to_string()));
            let base = logs.join(format!("{role}-{program}"));
            Proc::start(netns, &lab_command(args.collect::<Vec<_>>())?, &base)
        })
        .collect()
}

/// Waits until servers say that they listen.
pub(super) fn wait_listening(processes: &mut [Proc]) -> Result<()> {
    processes
        .iter_mut()
        .try_for_each(|process| process.wait_output("\"listening\"", super::READY_TIMEOUT))
}

/// The pods that every lab starts with: in kubenet web is 10.244.0.15, coredns 10.244.0.3.
pub fn standard(topology: &Topology) -> Vec<PodSpec> {
    let ip = |node, nth| topology.pod_ip(node, nth);
    vec![
        PodSpec::new("web", 0).ip(ip(0, 13)).serving(),
        PodSpec::new("web2", 0).ip(ip(0, 14)).serving(),
        PodSpec::new("api", 1).ip(ip(1, 13)).serving(),
        PodSpec::new("coredns", 0)
            .namespace("kube-system")
            .label("k8s-app", "kube-dns")
            .ip(ip(0, 1))
            .port("dns", Protocol::Udp, 53)
            .port("dns-tcp", Protocol::Tcp, 53)
            .program(&["dns", "--listen", "0.0.0.0:53", "--zone", "{run}/zone.json"]),
    ]
}

/// A pod called `probed` with a probe of each kind: HTTP, TCP and gRPC.
pub fn probed(node: usize) -> PodSpec {
    PodSpec::new("probed", node)
        .serving()
        .port("grpc", Protocol::Tcp, 50051)
        .program(&["serve-grpc-health", "--listen", "0.0.0.0:50051"])
        .probe(Probe::http(ProbeKind::Readiness, 8080, "/ready").every(5))
        .probe(Probe::tcp(ProbeKind::Startup, 8080).every(10))
        .probe(Probe::grpc(ProbeKind::Liveness, 50051, "").every(10))
}
