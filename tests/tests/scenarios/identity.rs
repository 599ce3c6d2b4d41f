//! What each hook saw against what its interface counted.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use nodescope_tests::lab::{self, Agent, Lab, LinkStats};

use crate::common::{PATIENCE, eventually, metric, sample};

/// Packets and bytes of the ingress, packets and bytes of the egress, by interface.
pub type Counted = BTreeMap<String, [u64; 4]>;

/// The interfaces of node 0 that have hooks.
pub fn interfaces(lab: &Lab) -> Vec<String> {
    let pods = lab.pods().into_iter().filter(|pod| pod.node() == 0);
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
    interfaces
        .iter()
        .map(|interface| Ok((interface.clone(), lab.link_stats(&lab.node(0), interface)?)))
        .collect()
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
pub struct Since {
    interfaces: Vec<String>,
    links: BTreeMap<String, LinkStats>,
    hooks: Counted,
}

impl Since {
    /// Waits for such a moment.
    pub fn still(lab: &Lab, agent: &Agent) -> Result<Self> {
        let interfaces = interfaces(lab);
        let mut before = (BTreeMap::new(), BTreeMap::new());
        eventually("nothing moves", || {
            let now = (
                links(lab, &interfaces)?,
                hooks(&agent.metrics()?, &interfaces)?,
            );
            let idle = now == before;
            before = now;
            Ok(idle)
        })?;
        let (links, hooks) = before;
        Ok(Self {
            interfaces,
            links,
            hooks,
        })
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
        let counted = links(lab, &self.interfaces)?;
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

/// Packets that an interface's hook could put into no record because the table was full.
pub fn map_full(agent: &Agent, interface: &str, direction: &str) -> Result<u64> {
    let labels = [
        ("interface", interface),
        ("direction", direction),
        ("reason", "map_full"),
    ];
    let found = metric(agent, "nodescope_hook_unattributed_packets_total", &labels)?;
    Ok(found.unwrap_or(0.0) as u64)
}
