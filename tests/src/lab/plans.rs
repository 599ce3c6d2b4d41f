//! Plans for the lab's programs, made from pods and services: health checks, probes, steering.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Lab;
use super::pods::Pod;
use super::programs::PROXY_PORT;
use super::programs::plan::{HealthPlan, KubeletPlan, LbPlan, PodProbe, ServiceHealth, VipPlan};
use super::services::{ClusterProbe, Protocol, Service};
use super::topology::{VOID, node_role};

/// Where Azure's load-balancer probes come from.
const PROBE_SOURCE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// How the cloud and the nodes' own programs are to behave.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// Time between two probes of a node by the load balancer.
    pub interval: Duration,
    /// Probes in a row that change a node's standing.
    pub threshold: u32,
    /// Whether the load balancer has stopped to probe.
    pub paused: bool,
    /// Whether health answers are those of old kube-proxies.
    pub old_health: bool,
    /// Nodes whose kube-proxy is not well.
    pub sick: BTreeSet<usize>,
    /// Load-balanced addresses whose traffic goes to one node, whatever its health.
    pub pinned: BTreeMap<Ipv4Addr, usize>,
}

impl Default for Cloud {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            threshold: 2,
            paused: false,
            old_health: false,
            sick: BTreeSet::new(),
            pinned: BTreeMap::new(),
        }
    }
}

impl Lab {
    /// Brings the nodes' health answers up to date, then the kubelets, then the load balancer.
    pub(super) fn sync_daemons(&self, pods: &[Pod], services: &[Service]) -> Result<()> {
        let cloud = self.lock_cloud().clone();
        for index in 0..self.topology.nodes.len() {
            let (node, role) = (self.node(index), node_role(index));
            // A real kube-proxy answers itself.
            if self.real().is_none() {
                let plan = health_plan(&cloud, index, pods, services);
                self.follow(&format!("{role}-health"), "node-health", &node, &plan)?;
            } else if cloud.sick.contains(&index) {
                bail!("a real kube-proxy cannot be told to be ill");
            }
            let name = format!("{role}-kubelet");
            let plan = kubelet_plan(index, pods);
            let runs = self.lock_daemons().contains_key(&name);
            if runs || !plan.probes.is_empty() {
                self.follow(&name, "kubelet", &node, &plan)?;
            }
        }
        self.sync_load_balancer(&cloud, services)
    }

    /// Changes how the cloud behaves, and has its programs follow.
    pub(super) fn change_cloud(&self, change: impl FnOnce(&mut Cloud)) -> Result<()> {
        change(&mut self.lock_cloud());
        let (pods, services) = {
            let state = self.lock();
            (state.pods.clone(), state.services.clone())
        };
        self.sync_daemons(&pods, &services)
    }

    fn sync_load_balancer(&self, cloud: &Cloud, services: &[Service]) -> Result<()> {
        let vips = services.iter().filter_map(|service| {
            let vip = service.vip?;
            Some(vip_plan(cloud, vip, service))
        });
        let vips = vips.collect::<Result<Vec<_>>>()?;
        let runs = self.lock_daemons().contains_key("lb");
        if vips.is_empty() && !runs {
            return Ok(());
        }
        let plan = LbPlan {
            source: PROBE_SOURCE,
            interval_ms: millis(cloud.interval),
            threshold: cloud.threshold,
            paused: cloud.paused,
            nodes: self.topology.nodes.iter().map(|node| node.ip).collect(),
            void: VOID.to_owned(),
            vips,
        };
        self.follow("lb", "load-balancer", &self.fabric(), &plan)
    }

    pub(super) fn lock_cloud(&self) -> MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn health_plan(cloud: &Cloud, node: usize, pods: &[Pod], services: &[Service]) -> HealthPlan {
    let services = services.iter().filter_map(|service| {
        Some(ServiceHealth {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: service.health_check_port()?,
            // What ends takes no new connections: kube-proxy counts the ready ones alone.
            local_endpoints: service
                .endpoints(pods)
                .iter()
                .filter(|e| e.ready() && e.pod.map(Pod::node) == Some(node))
                .count(),
        })
    });
    HealthPlan {
        proxy_healthy: !cloud.sick.contains(&node),
        old_form: cloud.old_health,
        services: services.collect(),
    }
}

fn kubelet_plan(node: usize, pods: &[Pod]) -> KubeletPlan {
    let here = pods.iter().filter(|pod| pod.node() == node);
    let probes = here.flat_map(|pod| {
        pod.spec().probes.iter().map(|probe| PodProbe {
            pod: format!("{}/{}", pod.spec().namespace, pod.name()),
            kind: probe.kind.as_str().to_owned(),
            ip: pod.ip(),
            handler: probe.handler.clone(),
            period_ms: millis(probe.period),
            timeout_ms: millis(probe.timeout),
        })
    });
    KubeletPlan {
        probes: probes.collect(),
    }
}

/// The probe that AKS sets up: the health-check node port, a node port, or kube-proxy.
fn vip_plan(cloud: &Cloud, vip: Ipv4Addr, service: &Service) -> Result<VipPlan> {
    let name = format!("{}/{}", service.namespace, service.name);
    let healthz = Some("/healthz".to_owned());
    let mut tcp = service.ports.iter().filter(|p| p.protocol == Protocol::Tcp);
    let node_port = tcp.find_map(|port| port.node_port);
    let (port, path) = match (service.health_check_port(), service.cluster_probe) {
        (Some(port), _) => (port, healthz),
        (None, ClusterProbe::KubeProxy) => (PROXY_PORT, healthz),
        (None, ClusterProbe::NodePort) => {
            let port = node_port.with_context(|| {
                format!("service {name} has no TCP node port to probe: use probe_kube_proxy()")
            })?;
            (port, None)
        }
    };
    Ok(VipPlan {
        vip,
        service: name,
        port,
        path,
        pinned: cloud.pinned.get(&vip).copied(),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
