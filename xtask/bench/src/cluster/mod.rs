//! What a large cluster costs the agent of one node: time until it knows everything, memory,
//! traffic from the API server, and processor time while pods come, change and go.
//!
//! The API server is the lab's, with streaming lists and TLS, on the loopback of the agent's node.

mod held;
mod objects;
mod pods;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nodescope_tests::lab::Lab;

use held::{CHANGES, Held};
pub use held::{Hold, hold};
use objects::{NODES, PODS, SERVICES};

use crate::agent::{self, Agent};
use crate::figure::{Figure, Goal, Report};
use crate::stop::Stop;

/// A round takes a minute.
const MOST_ROUNDS: u32 = 3;
/// How long the agent may take to know the cluster.
const PATIENCE: Duration = Duration::from_secs(120);
/// After this, what a start needed has been given back.
const SETTLE: Duration = Duration::from_secs(5);
/// How long processor time is taken of an agent while nothing changes, and while pods do.
const LENGTHS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

const MIB: f64 = 1024.0 * 1024.0;

/// What is watched, and what its figures are called.
const MODES: [(&str, &str); 2] = [("cluster", "cluster"), ("node", "cluster_own_pods")];

/// Measures an agent that watches all pods, and one that watches its own node's.
///
/// # Errors
/// The lab, the API server or the agent does not start, or the user wants an end.
pub fn measure(rounds: u32, stop: &Stop, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("a cluster of {NODES} nodes, {PODS} pods and {SERVICES} services");
    let rounds = rounds.min(MOST_ROUNDS);
    let lab = agent::lab()?;
    let mut bare = Vec::new();
    {
        let held = Held::start(&lab, true)?;
        for _ in 0..rounds {
            stop.check()?;
            let (agent, _) = start(&lab, held.kubeconfig(), "cluster")?;
            std::thread::sleep(SETTLE);
            bare.push(agent.resident()?);
            agent.stop()?;
        }
    }
    let bare = Figure::new("cluster_rss_mib_empty_api", "MiB", bare);
    let base = bare.median();
    report.add(bare);
    let mut held = Held::start(&lab, false)?;
    for (scope, name) in MODES {
        let mut all = Rounds::default();
        for _ in 0..rounds {
            stop.check()?;
            all.add(&lab, &mut held, scope, base, stop)?;
        }
        all.report(name, scope == "cluster", report);
    }
    report.note(format!(
        "Cluster: {NODES} nodes, {PODS} pods, {SERVICES} services and EndpointSlices at the lab's \
         API server, over TLS; churn of {CHANGES} pod changes a second, two in ten a pod replaced; \
         cluster_own_pods: --watch node. Sync is from the agent's start, a random wait of up to \
         5 s before the first lists included."
    ));
    Ok(())
}

/// Figures of one mode by round.
#[derive(Default)]
struct Rounds {
    sync: Vec<f64>,
    received: Vec<f64>,
    more: Vec<f64>,
    peak: Vec<f64>,
    quiet: Vec<f64>,
    churn: Vec<f64>,
    churn_bytes: Vec<f64>,
}

impl Rounds {
    fn add(
        &mut self,
        lab: &Lab,
        held: &mut Held,
        scope: &str,
        base: f64,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let before = loopback(lab)?;
        let (agent, sync) = start(lab, held.kubeconfig(), scope)?;
        self.sync.push(sync.as_secs_f64());
        self.received.push((loopback(lab)? - before) / MIB);
        std::thread::sleep(SETTLE);
        stop.check()?;
        self.more.push(agent.resident()? - base);
        self.peak.push(agent.peak()? - base);
        self.quiet.push(agent.share(LENGTHS.0)?);
        stop.check()?;
        let before = loopback(lab)?;
        held.switch_churn()?;
        let churn = agent.share(LENGTHS.1);
        held.switch_churn()?;
        self.churn.push(churn?);
        let bytes = (loopback(lab)? - before) / LENGTHS.1.as_secs_f64();
        self.churn_bytes.push(bytes / 1024.0);
        agent.stop()
    }

    fn report(self, name: &str, has_goals: bool, report: &mut Report) {
        // To the pods alone: what the other objects take is theirs, too.
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let per_pod = |mib: &f64| mib * MIB / PODS as f64;
        let bytes = self.more.iter().map(per_pod).collect();
        let goal = |figure: Figure, most: f64| match has_goals {
            true => figure.goal(Goal::AtMost(most)),
            false => figure,
        };
        let named = |what: &str, unit, rounds| Figure::new(format!("{name}_{what}"), unit, rounds);
        report.add(goal(named("sync_s", "s", self.sync), 10.0));
        report.add(named("api_mib", "MiB", self.received));
        report.add(goal(named("more_rss_mib", "MiB", self.more), 60.0));
        report.add(named("more_peak_rss_mib", "MiB", self.peak));
        report.add(named("bytes_per_pod", "B", bytes));
        report.add(named("cpu_percent_quiet", "%", self.quiet));
        report.add(goal(named("cpu_percent_churn", "%", self.churn), 3.0));
        report.add(named("churn_kib_per_s", "KiB/s", self.churn_bytes));
    }
}

/// Starts an agent and waits until it has listed everything; how long that took.
fn start(lab: &Lab, kubeconfig: &Path, scope: &str) -> anyhow::Result<(Agent, Duration)> {
    let started = Instant::now();
    let agent = Agent::start_with(lab, kubeconfig, &["--watch", scope])?;
    loop {
        let state = agent.describe()?["api"]["state"].take();
        if state == "synced" {
            return Ok((agent, started.elapsed()));
        }
        if started.elapsed() > PATIENCE {
            bail!("the agent does not know the cluster after {PATIENCE:?}: it says {state}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes that the loopback of the agent's node carried: what the API server and the agent sent,
/// headers included.
fn loopback(lab: &Lab) -> anyhow::Result<f64> {
    let text = lab
        .node(0)
        .enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|counts| counts.split_whitespace().next()?.parse().ok());
    bytes.context("no loopback in /proc/thread-self/net/dev")
}
