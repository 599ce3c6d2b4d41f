//! What the lab tells its programs to do: files that they read again at SIGHUP.

use std::fs;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A plan and its number; a program says `{"applied":NUMBER}` once it does as planned.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Larger with each change.
    pub generation: u64,
    /// The plan.
    pub plan: T,
}

/// What a node's kube-proxy tells of its health.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthPlan {
    /// Whether kube-proxy itself is well.
    pub proxy_healthy: bool,
    /// Whether answers lack `serviceProxyHealthy`, as those of old versions do.
    pub old_form: bool,
    /// Services with a health-check node port.
    pub services: Vec<ServiceHealth>,
}

/// The health-check answer for one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// The service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node port.
    pub port: u16,
    /// Endpoints on this node that take traffic.
    pub local_endpoints: usize,
}

/// What the load balancer probes and how it steers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LbPlan {
    /// Where probes come from.
    pub source: Ipv4Addr,
    /// Milliseconds between two probes of a node.
    pub interval_ms: u64,
    /// Probes in a row of the other outcome that change a node's standing.
    pub threshold: u32,
    /// Nothing is probed; steering stays as it is.
    pub paused: bool,
    /// Node addresses, by index.
    pub nodes: Vec<Ipv4Addr>,
    /// The fabric's interface that swallows packets.
    pub void: String,
    /// The load-balanced addresses.
    pub vips: Vec<VipPlan>,
}

/// One load-balanced address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VipPlan {
    /// The address.
    pub vip: Ipv4Addr,
    /// `namespace/name` of its service.
    pub service: String,
    /// The port to probe on every node.
    pub port: u16,
    /// The path of an HTTP probe; a TCP probe without.
    pub path: Option<String>,
    /// The one node that gets everything, whatever its health.
    pub pinned: Option<usize>,
}

/// What a kubelet probes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KubeletPlan {
    /// Its probes.
    pub probes: Vec<PodProbe>,
}

/// One probe of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodProbe {
    /// `namespace/name` of the pod.
    pub pod: String,
    /// `liveness`, `readiness` or `startup`.
    pub kind: String,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// What is asked.
    pub handler: ProbeHandler,
    /// Milliseconds between two.
    pub period_ms: u64,
    /// Milliseconds that an answer may take.
    pub timeout_ms: u64,
}

/// What a probe asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeHandler {
    /// `GET path`.
    Http {
        /// The container's port.
        port: u16,
        /// The path.
        path: String,
    },
    /// A connection.
    Tcp {
        /// The container's port.
        port: u16,
    },
    /// gRPC health.
    Grpc {
        /// The container's port.
        port: u16,
        /// The service asked for, empty for the server.
        service: String,
    },
}

/// The plans of one file, as they change.
pub(super) struct Plans<T> {
    path: PathBuf,
    changed: Signal,
    seen: Option<u64>,
    kind: PhantomData<T>,
}

impl<T: DeserializeOwned> Plans<T> {
    /// The plans in `path`. From here on SIGHUP no longer ends the process.
    pub(super) fn of(path: PathBuf) -> Result<Self> {
        Ok(Self {
            path,
            changed: signal(SignalKind::hangup())?,
            seen: None,
            kind: PhantomData,
        })
    }

    /// The first plan at once, then each newer one. Safe to drop while it waits.
    pub(super) async fn next(&mut self) -> Result<Numbered<T>> {
        loop {
            if self.seen.is_some() && self.changed.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            let path = self.path.display();
            let text = fs::read(&self.path).with_context(|| format!("cannot read {path}"))?;
            let plan: Numbered<T> =
                serde_json::from_slice(&text).with_context(|| format!("{path} is no plan"))?;
            if self.seen != Some(plan.generation) {
                self.seen = Some(plan.generation);
                return Ok(plan);
            }
        }
    }
}

/// Says that plan `generation` is in force.
pub(super) fn applied(generation: u64) {
    println!("{}", json!({"applied": generation}));
}

/// The address to probe.
pub(super) fn target(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((ip, port))
}
