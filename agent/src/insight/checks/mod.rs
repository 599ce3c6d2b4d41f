//! Expectation against observation: each check says PASS, FAIL or UNKNOWN, and what by.
//!
//! A check is a function of [`Facts`]. It never passes without evidence: where no traffic was
//! seen, or something that it compares with is not known, it says UNKNOWN and what is missing.

mod conntrack;
mod dns;
mod headroom;
mod probes;
mod recent;
mod services;
#[cfg(test)]
mod tests;
mod traffic;
mod translation;

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Inventory;
use crate::flow::{Flow, Moment};
use crate::node::NodeView;

use super::dns::Answers;
use super::nat::InUse;
use super::probes::Report as ProbeReport;
use super::services::Report;

pub use conntrack::Conntrack;
pub use headroom::PORTS as SNAT_PORTS;
pub use recent::Recent;

/// Flows count as evidence for so long: what was repaired earlier is no failure any more.
pub const WINDOW: Duration = Duration::from_secs(300);

/// What can run out counts as full from so many percent on, unless told otherwise.
pub const FULL_PERCENT: u32 = 90;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be, by evidence.
    Pass,
    /// Not as it should be.
    Fail,
    /// Cannot be told.
    Unknown,
}

impl Verdict {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A verdict and what it was told by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// What it was told by; for UNKNOWN what is missing, for FAIL also where to look.
    pub evidence: String,
}

impl Finding {
    fn pass(evidence: impl Into<String>) -> Self {
        Self::new(Verdict::Pass, evidence)
    }

    fn fail(evidence: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, evidence)
    }

    fn unknown(evidence: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, evidence)
    }

    fn new(verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self {
            verdict,
            evidence: evidence.into(),
        }
    }
}

/// Everything that checks are made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Now, by both clocks: the monotonic one says how long ago, the other is for people.
    pub now: Moment,
    /// The newest record of each connection within [`WINDOW`], oldest first.
    pub flows: &'a [Arc<Flow>],
    /// The cluster.
    pub inventory: &'a Inventory,
    /// The node.
    pub view: &'a NodeView,
    /// Health probes of this node and its pods.
    pub probes: &'a [ProbeReport],
    /// The destination towards which the most source ports are in use.
    pub snat_ports: Option<InUse>,
    /// More connections are open than the agent keeps: as many as are in `snat_ports`, and more.
    pub more_ports: bool,
    /// Answers of DNS servers.
    pub dns: &'a Answers,
    /// From so many percent on something is full.
    pub full_percent: u64,
    /// What was seen of the services.
    pub services: &'a [Report],
    /// Entries of conntrack, or why they cannot be told.
    pub conntrack: Result<Conntrack, String>,
}

/// A check.
pub struct Check {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether the state of each node counts; else what one node saw speaks for the cluster.
    pub each_node: bool,
    /// Makes it.
    pub run: fn(&Facts<'_>) -> Finding,
}

const fn traffic(name: &'static str, run: fn(&Facts<'_>) -> Finding) -> Check {
    Check {
        name,
        each_node: false,
        run,
    }
}

const fn state(name: &'static str, run: fn(&Facts<'_>) -> Finding) -> Check {
    Check {
        name,
        each_node: true,
        run,
    }
}

/// All checks, in the order in which they are shown.
pub const CHECKS: [Check; 13] = [
    traffic("pod-to-pod-no-snat", translation::pod_to_pod_no_snat),
    traffic("egress-snat-as-configured", translation::egress_snat),
    traffic("masq-config-applied", translation::masq_config),
    traffic("local-policy-preserves-client", services::local_policy),
    traffic("cluster-policy-second-hop", services::second_hop),
    traffic("healthz-matches-endpoints", probes::healthz),
    traffic("lb-probes-arriving", probes::load_balancer),
    traffic("kubelet-probes-passing", probes::kubelet),
    traffic("cross-node-route", traffic::cross_node),
    traffic("dns-answers", dns::answers),
    state("pod-cidr-headroom", headroom::pod_cidr),
    state("snat-port-headroom", headroom::snat_ports),
    state("conntrack-headroom", headroom::conntrack),
];

/// Makes the checks of these names (all of them when none is named).
///
/// # Errors
/// When a name is none: the text says which names there are.
pub fn run(names: &[String], facts: &Facts<'_>) -> Result<Vec<(&'static Check, Finding)>, String> {
    static ALL: [Check; 13] = CHECKS;
    if let Some(unknown) = names
        .iter()
        .find(|name| ALL.iter().all(|check| check.name != **name))
    {
        let known: Vec<_> = ALL.iter().map(|check| check.name).collect();
        return Err(format!(
            "check {unknown}: there is none of that name; there are {}",
            known.join(", ")
        ));
    }
    let wanted = |check: &&Check| names.is_empty() || names.iter().any(|name| name == check.name);
    Ok(ALL
        .iter()
        .filter(wanted)
        .map(|check| (check, (check.run)(facts)))
        .collect())
}

/// `3 connections`, `1 connection`.
fn count(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

/// An end of a flow as people know it.
fn ends(flow: &Flow) -> String {
    let name =
        |identity: &crate::flow::Identity, address: std::net::SocketAddr| match identity.pod() {
            Some(pod) => format!("{} ({address})", pod.name),
            None => address.to_string(),
        };
    format!(
        "{} -> {}",
        name(&flow.source, flow.tuple.source),
        name(&flow.destination, flow.nat.translated.destination)
    )
}
