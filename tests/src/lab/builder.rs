//! Starting a lab.

use std::collections::HashMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::api::Api;
use super::control_plane::ControlPlane;
use super::masq::MasqConfig;
use super::plans::Cloud;
use super::pods::{self, PodSpec};
use super::run_dir::{self, RunDir};
use super::services::{self, Service};
use super::topology::{FABRIC_SYSCTLS, NODE_SYSCTLS, SWITCH_SYSCTLS, Topology};
use super::{Lab, State, names, netns};
use crate::real::{self, RealControlPlane};

/// What a lab is to be like. Made by [`Lab::builder`].
pub struct LabBuilder {
    name: String,
    exact_name: bool,
    topology: Topology,
    promiscuous: bool,
    pods: Vec<PodSpec>,
    services: Vec<Service>,
    api: bool,
    real: bool,
    cloud: Cloud,
}

impl LabBuilder {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            exact_name: false,
            services: Vec::new(),
            topology: Topology::kubenet(),
            promiscuous: true,
            pods: Vec::new(),
            api: true,
            real: real::is_asked_for(),
            cloud: Cloud::default(),
        }
    }

    /// Chooses the network: a [`super::Model`], or a topology of one's own. kubenet if not
    /// called.
    #[must_use]
    pub fn topology(mut self, topology: impl Into<Topology>) -> Self {
        self.topology = topology.into();
        self
    }

    /// Sets how often the load balancer probes each node, and after how many probes of the
    /// other outcome it changes its mind. Azure's 5 s and 2 when not called.
    #[must_use]
    pub fn lb_probe(mut self, interval: Duration, threshold: u32) -> Self {
        self.cloud.interval = interval;
        self.cloud.threshold = threshold.max(1);
        self
    }

    /// Has nodes answer health checks as kube-proxies before 1.27 did, without
    /// `serviceProxyHealthy`.
    #[must_use]
    pub fn old_health_answers(mut self) -> Self {
        self.cloud.old_health = true;
        self
    }

    /// Takes the name as it is, instead of making it unique with the process id: for a lab
    /// that is looked up by its name.
    #[must_use]
    pub fn exact_name(mut self) -> Self {
        self.exact_name = true;
        self
    }

    /// Whether cbr0 is promiscuous, kubenet's default (and this one).
    #[must_use]
    pub fn promiscuous_bridge(mut self, promiscuous: bool) -> Self {
        self.promiscuous = promiscuous;
        self
    }

    /// Adds a pod to the standard ones.
    #[must_use]
    pub fn pod(mut self, spec: PodSpec) -> Self {
        self.pods.push(spec);
        self
    }

    /// Adds a service to the standard ones.
    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Adds what there is to show beyond pods that talk: load balancers with both policies in
    /// front of `web` and `api`, and a pod that the kubelet probes in every way.
    #[must_use]
    pub fn showcase(mut self) -> Self {
        self.services.extend(services::balanced(&self.topology));
        self.pod(pods::probed(1))
    }

    /// Starts no API server: agents run with `--kubeconfig none`.
    #[must_use]
    pub fn without_api(mut self) -> Self {
        self.api = false;
        self
    }

    /// Starts etcd, a real kube-apiserver and controller-manager, and a real kube-proxy on each
    /// node, in place of the lab's own. `NODESCOPE_LAB=real` does the same for every lab.
    #[must_use]
    pub fn real(mut self) -> Self {
        self.real = true;
        self
    }

    /// The lab's own API server and rules, whatever the environment asks for.
    #[must_use]
    pub fn simulated(mut self) -> Self {
        self.real = false;
        self
    }

    /// Builds it: when this returns, every pod can send and every server listens. What
    /// crashed labs left is removed before.
    pub fn start(self) -> Result<Lab> {
        ensure!(is_root(), "a lab needs network namespaces: run as root");
        let name = match self.exact_name {
            true => self.name,
            false => unique(&self.name),
        };
        names::check_lab_name(&name)?;
        run_dir::clean_stale()?;
        let run = RunDir::take(&name)?;
        fs::create_dir_all(run.path().join("logs"))?;
        let api = self
            .api
            .then(|| control_plane(self.real, &self.topology))
            .transpose()?;
        let topology = self.topology;
        let wiring = topology
            .model
            .wiring(self.promiscuous, has_program("ebtables"));
        let mut services = services::standard(topology.dns, topology.gateway);
        services.extend(self.services);
        let mut pods = pods::standard(&topology);
        pods.extend(self.pods);
        let lab = Lab {
            name,
            wiring,
            state: Mutex::new(State {
                pods: Vec::new(),
                services,
                processes: HashMap::new(),
                entrypoints: HashMap::new(),
                masq: MasqConfig::of(&topology),
            }),
            topology,
            cloud: Mutex::new(self.cloud),
            daemons: Mutex::default(),
            relays: Mutex::new(Vec::new()),
            api,
            started: AtomicU32::new(0),
            run,
        };
        // From here on, an error drops the lab, which removes what there is of it.
        build(&lab, pods).with_context(|| format!("starting lab {}", lab.name))?;
        Ok(lab)
    }
}

/// The real control plane, or the lab's own API server.
fn control_plane(real: bool, topology: &Topology) -> Result<Box<dyn ControlPlane>> {
    Ok(match real {
        true => Box::new(RealControlPlane::take(topology.service_range)?),
        false => Box::new(Api::start()?),
    })
}

/// Everything that [`LabBuilder::start`] does inside namespaces.
fn build(lab: &Lab, pods: Vec<PodSpec>) -> Result<()> {
    let topology = &lab.topology;
    let roles = topology.roles();
    let spaces: Vec<String> = roles
        .iter()
        .map(|role| names::namespace(&lab.name, role))
        .collect();
    netns::create(&spaces)?;
    lab.fabric().sysctls(FABRIC_SYSCTLS)?;
    lab.fabric().ip(&topology.fabric_lines(&lab.name))?;
    lab.fabric().sysctls(SWITCH_SYSCTLS)?;
    for (index, node) in topology.nodes.iter().enumerate() {
        let space = lab.node(index);
        space.sysctls(NODE_SYSCTLS)?;
        space.ip(&topology.node_lines(node))?;
        space.ip(&lab.wiring.node_lines(node))?;
        for command in lab.wiring.node_commands(node) {
            let argv: Vec<&str> = command.iter().map(String::as_str).collect();
            space.tool(&argv, "")?;
        }
    }
    lab.vm().ip(&topology.machine_lines(&topology.vm))?;
    lab.onprem().ip(&topology.machine_lines(&topology.onprem))?;
    lab.apply_static_objects()?;
    lab.start_relays()?;
    lab.reach_pods();
    lab.start_proxies()?;
    lab.add_pods(pods)?;
    lab.start_machine_servers()?;
    let mut ports = roles;
    ports.retain(|role| role != "fabric" && *role != topology.onprem.role);
    lab.wait_forwarding(&lab.fabric(), &ports)
}

/// A name that no other lab of this machine has: the prefix, the process id, and a number
/// from the second lab on.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    match NEXT.fetch_add(1, Ordering::Relaxed) {
        0 => format!("{prefix}{pid}"),
        number => format!("{prefix}{pid}x{number}"),
    }
}

/// Whether `program` is in one of the directories of `$PATH`.
fn has_program(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Whether this process may build labs.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
