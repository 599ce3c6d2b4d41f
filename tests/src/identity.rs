//! What each hook saw against what its interface counted.

use std::collections::BTreeMap;

use crate::lab::{self, Agent, Lab, LinkStats, PATIENCE, eventually};
use anyhow::{Context, Result, ensure};

/// Packets and bytes of the ingress, packets and bytes of the egress, by interface.
pub type Counted = BTreeMap<String, [u64; 4]>;

/// The interfaces of node 0 that have hooks.
pub fn interfaces(lab: &Lab) -> Vec<String> {
    interfaces_of(lab, 0)
}

/// As [`interfaces`], of a node with a bridge.
pub fn interfaces_of(lab: &Lab, node: usize) -> Vec<String> {
    let pods = lab.pods().into_iter().filter(|pod| pod.node() == node);
    let mut all: Vec<_> = pods.map(|pod| pod.host_interface().to_owned()).collect();
    all.extend(["cbr0".to_owned(), "eth0".to_owned()]);
    all
}

/// What each hook saw, by the agent's metrics.
pub fn hooks(metrics: &str, interfaces: &[String]) -> Result<Counted> {
    let mut all = Counted::new();
    for interface in interfaces {
        let mut values = [0; 4];
        for (at, (name, direction)) in [
            ("nodescope_hook_packets_total", "ingress"),
            ("nodescope_hook_bytes_total", "ingress"),
            ("nodescope_hook_packets_total", "egress"),
            ("nodescope_hook_bytes_total", "egress"),
        ]
        .into_iter()
        .enumerate()
        {
            let labels = [("interface", interface.as_str()), ("direction", direction)];
            values[at] = sample(metrics, name, &labels)?.unwrap_or(0.0) as u64;
        }
        all.insert(interface.clone(), values);
    }
    Ok(all)
}

/// What the interfaces of node 0 counted.
pub fn links(lab: &Lab, interfaces: &[String]) -> Result<BTreeMap<String, LinkStats>> {
    links_of(lab, 0, interfaces)
}

fn links_of(lab: &Lab, node: usize, interfaces: &[String]) -> Result<BTreeMap<String, LinkStats>> {
    let node = lab.node(node);
    let stats = |name: &String| Ok((name.clone(), lab.link_stats(&node, name)?));
    interfaces.iter().map(stats).collect()
}

/// An interface's counters as the hook counts: a bridge counts what it takes for itself after
/// the Ethernet header is off (net/bridge/br_input.c, `br_pass_frame_up`), the hook before.
pub fn as_hook(interface: &str, stats: &LinkStats) -> [u64; 4] {
    const ETHERNET: u64 = 14;
    let header = if interface == "cbr0" { ETHERNET } else { 0 };
    [
        stats.rx_packets,
        stats.rx_bytes + header * stats.rx_packets,
        stats.tx_packets,
        stats.tx_bytes,
    ]
}

/// A moment at which nothing moved: from there on, hooks and interfaces count the same.
#[derive(Debug)]
pub struct Since {
    node: usize,
    interfaces: Vec<String>,
    links: BTreeMap<String, LinkStats>,
    hooks: Counted,
}

impl Since {
    /// Waits for such a moment on node 0.
    pub fn still(lab: &Lab, agent: &Agent) -> Result<Self> {
        Self::still_on(lab, 0, agent)
    }

    /// Waits for such a moment on a node.
    pub fn still_on(lab: &Lab, node: usize, agent: &Agent) -> Result<Self> {
        let interfaces = interfaces_of(lab, node);
        let look = || -> Result<_> {
            let page = agent.metrics()?;
            let drains = sample(&page, "nodescope_drain_duration_seconds_count", &[])?;
            let counted = (
                links_of(lab, node, &interfaces)?,
                hooks(&page, &interfaces)?,
            );
            Ok((counted, drains.unwrap_or_default()))
        };
        let (mut counted, mut since) = look()?;
        eventually("nothing moves", || {
            let (now, drains) = look()?;
            if now != counted {
                (counted, since) = (now, drains);
            }
            // Metrics are of the last drain: one that began after the last packet has seen it.
            Ok(drains >= since + 2.0)
        })?;
        let (links, hooks) = counted;
        Ok(Self {
            node,
            interfaces,
            links,
            hooks,
        })
    }

    /// The interfaces that it looks at.
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// Waits until the hooks saw exactly what the interfaces counted since then, and gives it.
    pub fn agree(&self, lab: &Lab, agent: &Agent) -> Result<Counted> {
        let mut outcome = self.compare(lab, agent);
        // Patience enough to read what a flood left, on a machine that has other things to do.
        let _ = lab::wait_for("hooks and interfaces to agree", PATIENCE * 5, || {
            if outcome.is_err() {
                outcome = self.compare(lab, agent);
            }
            outcome.is_ok()
        });
        outcome
    }

    /// What was counted since then, when both agree on it.
    fn compare(&self, lab: &Lab, agent: &Agent) -> Result<Counted> {
        let mut found = Counted::new();
        let seen = hooks(&agent.metrics()?, &self.interfaces)?;
        let counted = links_of(lab, self.node, &self.interfaces)?;
        for interface in &self.interfaces {
            let then = as_hook(interface, &self.links[interface]);
            let now = as_hook(interface, &counted[interface]);
            let witness: [u64; 4] = std::array::from_fn(|at| now[at] - then[at]);
            let ours: [u64; 4] = std::array::from_fn(|at| {
                seen[interface][at].wrapping_sub(self.hooks[interface][at])
            });
            ensure!(
                ours == witness,
                "{interface}: hooks {ours:?}, interface {witness:?}"
            );
            found.insert(interface.clone(), ours);
        }
        Ok(found)
    }
}

/// What hooks saw of records' packets, as records count it, by an agent's metrics.
pub fn attributed(metrics: &str, interfaces: &[String]) -> Result<Counted> {
    let totals = hooks(metrics, interfaces)?;
    let mut expected = Counted::new();
    for interface in interfaces {
        let mut values = totals[interface];
        for (at, direction) in [(0, "ingress"), (2, "egress")] {
            let labels = [("interface", interface.as_str()), ("direction", direction)];
            let count = |name: &str| -> Result<u64> {
                Ok(sample(metrics, name, &labels)?.unwrap_or(0.0) as u64)
            };
            values[at] += count("nodescope_hook_offload_segments_total")?;
            // What only passed a bridge's queue is none of the interface's packets.
            let bridged = [labels[0], labels[1], ("reason", "bridged")];
            for (at, name) in [
                (at, "nodescope_hook_unattributed_packets_total"),
                (at + 1, "nodescope_hook_unattributed_bytes_total"),
            ] {
                values[at] -= count(name)?;
                values[at] += sample(metrics, name, &bridged)?.unwrap_or(0.0) as u64;
            }
        }
        expected.insert(interface.clone(), values);
    }
    Ok(expected)
}

/// A sample of metrics that were read: the sum over those with these labels.
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
    let mut sum = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').context("a sample without value")?;
        let (own, rest) = series.split_once('{').unwrap_or((series, ""));
        let wanted = labels
            .iter()
            .all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")));
        if own == name && wanted {
            *sum.get_or_insert(0.0) += value.parse::<f64>()?;
        }
    }
    Ok(sum)
}
