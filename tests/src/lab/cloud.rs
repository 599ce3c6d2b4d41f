//! The load balancer in front of the nodes, and what it and the kubelets saw.
//!
//! It is Azure's internal one with floating IP: packets reach a node with the load-balanced
//! address as their destination, and the node answers straight to the client.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::topology::node_role;
use super::{Lab, READY_TIMEOUT, wait_for};

/// One load-balanced address.
pub struct LoadBalancer<'a> {
    lab: &'a Lab,
    vip: Ipv4Addr,
}

impl Lab {
    /// The load balancer of `vip`.
    pub fn lb(&self, vip: Ipv4Addr) -> LoadBalancer<'_> {
        LoadBalancer { lab: self, vip }
    }

    /// Stops or resumes all probes by the load balancer; traffic goes where it went.
    pub fn pause_lb_probes(&self, paused: bool) -> Result<()> {
        self.change_cloud(|cloud| cloud.paused = paused)
    }

    /// Says whether kube-proxy on node `index` is well, which its health answers tell.
    pub fn set_proxy_healthy(&self, index: usize, healthy: bool) -> Result<()> {
        self.change_cloud(|cloud| {
            match healthy {
                true => cloud.sick.remove(&index),
                false => cloud.sick.insert(index),
            };
        })
    }

    /// Outcomes of the kubelet's probes on node `index` until now: `pod`, `kind`, `healthy`,
    /// `detail`, `latency_seconds`.
    pub fn kubelet_probes(&self, index: usize) -> Vec<Value> {
        let mut lines = self.daemon_lines(&format!("{}-kubelet", node_role(index)));
        lines.retain(|line| line.get("kind").is_some());
        lines
    }

    /// Questions to the health-check ports of node `index` until now: `asked` (the port),
    /// `path`, `from`, `status`.
    pub fn health_questions(&self, index: usize) -> Vec<Value> {
        let mut lines = self.daemon_lines(&format!("{}-health", node_role(index)));
        lines.retain(|line| line.get("asked").is_some());
        lines
    }
}

impl LoadBalancer<'_> {
    /// Sends everything to node `index` from now on, whatever its health.
    pub fn steer(&self, index: usize) -> Result<()> {
        let nodes = self.lab.topology.nodes.len();
        ensure!(index < nodes, "the lab has no node {index}");
        self.lab.change_cloud(|cloud| {
            cloud.pinned.insert(self.vip, index);
        })
    }

    /// Shares among the healthy nodes again, by a hash of addresses and ports.
    pub fn by_hash(&self) -> Result<()> {
        self.lab.change_cloud(|cloud| {
            cloud.pinned.remove(&self.vip);
        })
    }

    /// The nodes that get its traffic now.
    pub fn nodes(&self) -> Vec<usize> {
        let vip = self.vip.to_string();
        let lines = self.lab.daemon_lines("lb");
        let last = lines.iter().rfind(|line| line["steer"] == vip.as_str());
        let nodes = last.and_then(|line| line["nodes"].as_array());
        let indices = nodes.into_iter().flatten().filter_map(Value::as_u64);
        indices.filter_map(|n| usize::try_from(n).ok()).collect()
    }

    /// Waits until exactly `nodes` get its traffic.
    pub fn wait_nodes(&self, nodes: &[usize]) -> Result<()> {
        let what = format!("load balancer {} to use nodes {nodes:?}", self.vip);
        wait_for(&what, READY_TIMEOUT, || self.nodes() == nodes)
    }

    /// Probes for it until now: `node`, `port`, `path`, `healthy`, `detail`, `latency_seconds`.
    pub fn probes(&self) -> Vec<Value> {
        let vip = self.vip.to_string();
        let mut lines = self.lab.daemon_lines("lb");
        lines.retain(|line| line["vip"] == vip.as_str());
        lines
    }
}
