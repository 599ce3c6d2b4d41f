//! Clusters built out of network namespaces: real interfaces, bridges, iptables, conntrack
//! and sockets; only the cloud around the nodes is made up.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use nodescope_tests::lab::Lab;
//! let lab = Lab::builder("example").start()?;
//! let body = lab.pod("web")?.run(["curl", "-s", "http://10.1.2.3:8080/"])?.success()?;
//! assert!(body.contains("10.224.0.4")); // on-premises sees the node's address
//! # Ok(())
//! # }
//! ```
//!
//! [`Model`] has the network models; a load balancer, its probes, the nodes' health answers and
//! the kubelets' probes follow the services and pods that a lab has:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use nodescope_tests::lab::{Lab, Model, Protocol, Service, Topology};
//! let vip = Topology::overlay().vip(1);
//! let near = Service::new("default", "web", [10, 0, 9, 9].into())
//!     .port("http", Protocol::Tcp, 80, 8080)
//!     .load_balancer(vip)
//!     .local(31_990);
//! let lab = Lab::builder("example").topology(Model::Overlay).service(near).start()?;
//! lab.lb(vip).wait_nodes(&[0])?; // web runs on node 0
//! lab.vm().run_lab(["http-get", &format!("http://{vip}/")])?.success()?;
//! # Ok(())
//! # }
//! ```
//!
//! Every namespace of a lab is called `ns-lab<name>-<role>`; nothing outside of them is
//! touched. Dropping the lab removes it; [`clean_stale`] removes what a killed one left.

mod agent;
mod agent_pods;
mod api;
mod azure;
mod builder;
mod capture;
mod cloud;
mod cluster;
pub(crate) mod control_plane;
mod daemon;
pub mod demo;
mod fetch;
mod kubenet;
mod masq;
mod model;
pub(crate) mod names;
pub(crate) mod netns;
mod objects;
mod plans;
mod pods;
mod probes;
mod process;
pub mod programs;
mod readiness;
mod real_services;
pub(crate) mod relay;
pub(crate) mod rules;
pub(crate) mod run_dir;
mod servers;
mod services;
mod topology;
mod traffic;
mod wiring;
mod witness;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::apiserver::ApiServer;
use crate::real::RealControlPlane;
pub use agent::Agent;
pub use agent_pods::HUBBLE_PORT;
pub(crate) use agent_pods::connect;
pub use builder::{LabBuilder, is_root};
pub use capture::{BothWays, Capture, Captured, Frame};
pub use cloud::LoadBalancer;
pub use control_plane::{ControlPlane, Who};
pub use masq::MasqConfig;
pub use model::Model;
pub use names::{NAMESPACE_PREFIX, namespace_prefix};
pub use netns::{Netns, with_prefix};
pub use pods::{Pod, PodSpec};
pub use probes::{Probe, ProbeKind};
pub use process::{Finished, Proc, binary, exec_in, lab_command};
pub use programs::plan::ProbeHandler;
pub use run_dir::{RUN_ROOT, clean_stale, live};
pub use services::{ClusterProbe, Protocol, Service, ServicePort, TrafficPolicy};
pub use topology::{Machine, NodeSpec, Topology};
pub use traffic::{Play, Played};
use wiring::Wiring;
pub use witness::{ConntrackEntry, LinkStats, Tuple};

/// How long servers and links get to become ready: they take milliseconds.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The API server as processes on a node reach it: see [`relay`].
const API_ON_NODE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);

/// A cluster that runs. Removed when dropped.
pub struct Lab {
    name: String,
    topology: Topology,
    wiring: Box<dyn Wiring>,
    state: Mutex<State>,
    cloud: Mutex<plans::Cloud>,
    daemons: Mutex<daemon::Daemons>,
    relays: Mutex<Vec<relay::Relay>>,
    api: Option<Box<dyn ControlPlane>>,
    started: AtomicU32,
    // Last: its lock says that the lab lives.
    run: run_dir::RunDir,
}

struct State {
    pods: Vec<Pod>,
    services: Vec<Service>,
    /// The lab's own servers, by the role of their namespace.
    processes: HashMap<String, Vec<Proc>>,
    /// What pods started with, by the same.
    entrypoints: HashMap<String, Proc>,
    /// What the nodes' ip-masq-agent rules follow.
    masq: Option<MasqConfig>,
}

impl Lab {
    /// Begins a lab whose name starts with `name` (lower-case letters and digits).
    pub fn builder(name: &str) -> LabBuilder {
        LabBuilder::new(name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses and ranges.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The directory of its sockets, logs and kubeconfigs, removed with it.
    pub fn run_dir(&self) -> &Path {
        self.run.path()
    }

    /// A folder on a BPF file system of the lab's own, for `--bpffs`; an agent that is not told so
    /// pins nothing.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn bpffs(&self) -> Result<PathBuf> {
        Ok(self.run.bpffs()?.join("nodescope"))
    }

    /// A folder on a disk of the lab's own that has room for `bytes` (whole pages).
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn small_disk(&self, bytes: u64) -> Result<PathBuf> {
        self.run.small_disk(bytes)
    }

    /// A kubeconfig for clients on this machine; none without an API server.
    pub fn kubeconfig_path(&self) -> Option<PathBuf> {
        self.api.as_ref()?;
        Some(self.run_dir().join("kubeconfig"))
    }

    /// A kubeconfig for clients in a node's namespace; none without an API server.
    pub fn node_kubeconfig_path(&self) -> Option<PathBuf> {
        self.api.as_ref()?;
        Some(self.run_dir().join("node.kubeconfig"))
    }

    /// The lab's own API server, to change objects and to make it misbehave; none in a lab
    /// without, or with a real control plane.
    pub fn api(&self) -> Option<&ApiServer> {
        self.api.as_ref()?.simulated()
    }

    /// What objects are written to, the lab's own API server or a real one.
    ///
    /// # Errors
    /// The lab has no API server.
    pub fn control_plane(&self) -> Result<&dyn ControlPlane> {
        let api = self.api.as_deref();
        api.with_context(|| format!("lab {} has no API server", self.name))
    }

    /// The real control plane, where the lab has one.
    pub fn real(&self) -> Option<&RealControlPlane> {
        self.api.as_ref()?.real()
    }

    /// Whether the API server takes gRPC probes in pods: a real one may be too old, and nobody
    /// learns of them then.
    pub fn takes_grpc_probes(&self) -> bool {
        self.real().is_none_or(RealControlPlane::takes_grpc_probes)
    }

    /// The namespace of `role`: `fabric`, `node0`, `vm`, `onprem`, `pod-web`…
    pub fn netns(&self, role: &str) -> Netns {
        Netns::named(names::namespace(&self.name, role))
    }

    /// The namespace of node `index`.
    pub fn node(&self, index: usize) -> Netns {
        self.netns(&topology::node_role(index))
    }

    /// The namespace of the fabric.
    pub fn fabric(&self) -> Netns {
        self.netns("fabric")
    }

    /// The namespace of the VM on the VNet.
    pub fn vm(&self) -> Netns {
        self.netns(&self.topology.vm.role)
    }

    /// The namespace of the machine on premises.
    pub fn onprem(&self) -> Netns {
        self.netns(&self.topology.onprem.role)
    }

    /// The pod called `short`.
    pub fn pod(&self, short: &str) -> Result<Pod> {
        let state = self.lock();
        let pod = state.pods.iter().find(|pod| pod.short() == short);
        pod.cloned()
            .with_context(|| format!("no pod '{short}' in lab {}", self.name))
    }

    /// All pods that have an interface.
    pub fn pods(&self) -> Vec<Pod> {
        self.lock().pods.clone()
    }

    /// The service `namespace`/`name`.
    pub fn service(&self, namespace: &str, name: &str) -> Result<Service> {
        let state = self.lock();
        let mut services = state.services.iter();
        services
            .find(|s| s.namespace == namespace && s.name == name)
            .cloned()
            .with_context(|| format!("no service '{namespace}/{name}' in lab {}", self.name))
    }

    /// Starts `argv` in `netns`; killed when the guard is dropped, or this process dies.
    pub fn spawn<S: AsRef<str>>(
        &self,
        netns: &Netns,
        argv: impl IntoIterator<Item = S>,
    ) -> Result<Proc> {
        let argv: Vec<String> = argv.into_iter().map(|s| s.as_ref().to_owned()).collect();
        Proc::start(netns, &argv, &self.log_base(netns.name()))
    }

    /// Starts a program of the lab binary in `netns` and waits until it says that it listens.
    pub fn serve(&self, netns: &Netns, args: &[&str]) -> Result<Proc> {
        let mut process = self.spawn(netns, lab_command(args)?)?;
        process.wait_output("\"listening\"", READY_TIMEOUT)?;
        Ok(process)
    }

    /// Takes the route to `range` out of the fabric's route table.
    pub fn remove_route(&self, range: &str) -> Result<()> {
        self.fabric().ip(&[format!("route del {range}")])
    }

    /// Puts a route of the topology, or of a pod in the nodes' subnet (`ADDRESS/32`), back
    /// into the fabric's route table.
    pub fn restore_route(&self, range: &str) -> Result<()> {
        let mut routes = self.topology.routes.iter();
        if let Some((to, via)) = routes.find(|(to, _)| to.to_string() == range) {
            return self.fabric().ip(&[format!("route add {to} via {via}")]);
        }
        let pods = self.pods();
        let mut lines = pods.iter().filter_map(|pod| self.vnet_route(pod));
        let Some(route) = lines.find(|route| route.split(' ').next() == Some(range)) else {
            bail!("no route to {range} in this lab's topology");
        };
        self.fabric().ip(&[format!("route add {route}")])
    }

    /// A file name without extension for the output of a process, not used before.
    fn log_base(&self, what: &str) -> PathBuf {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        self.run_dir().join("logs").join(format!("{number}-{what}"))
    }

    /// The state; a test that panicked while it held the lock does not make it wrong.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.relays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.lock_daemons().clear();
        {
            let mut state = self.lock();
            state.processes.clear();
            state.entrypoints.clear();
        }
        if let Err(error) = run_dir::remove_namespaces(&self.name) {
            eprintln!("removing lab {}: {error:#}", self.name);
        }
    }
}

/// The pauses between two looks at a condition: short at first, for what takes a moment, and
/// longer and longer, so that whoever waits leaves the machine to what is waited for.
pub(crate) struct Pauses(Duration);

impl Pauses {
    const FIRST: Duration = Duration::from_millis(2);
    const LONGEST: Duration = Duration::from_millis(50);

    /// Beginning with the shortest.
    pub(crate) fn new() -> Self {
        Self(Self::FIRST)
    }

    /// Sleeps for the next one.
    pub(crate) fn pause(&mut self) {
        std::thread::sleep(self.0);
        self.0 = (self.0 * 3 / 2).min(Self::LONGEST);
    }
}

/// Waits until `condition` holds, looking every few milliseconds; an error that names `what`
/// when it does not within `timeout`.
pub fn wait_for(what: &str, timeout: Duration, condition: impl FnMut() -> bool) -> Result<()> {
    let mut condition = condition;
    let mut pauses = Pauses::new();
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > timeout {
            bail!("waited {timeout:?} in vain for {what}");
        }
        pauses.pause();
    }
    Ok(())
}

/// How long a record may take to appear: far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// As [`eventually`], of what a fault broke; prints how long it took from its end.
pub fn recovers(fault: &str, condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let ended = std::time::Instant::now();
    eventually(&format!("recovery: {fault}"), condition)?;
    println!("recovery: {fault}: {:.1} s", ended.elapsed().as_secs_f64());
    Ok(())
}

/// Waits for a condition that can fail to be looked at.
pub fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut last = None;
    let outcome = wait_for(what, PATIENCE, || match condition() {
        Ok(holds) => holds,
        Err(error) => {
            last = Some(error);
            false
        }
    });
    match (outcome, last) {
        (Err(timeout), Some(error)) => Err(timeout.context(format!("at last: {error:#}"))),
        (outcome, _) => outcome,
    }
}
