//! A cluster under everything at once, for a long time: traffic, pods that come and go, agents
//! that are killed, an API server that fails, chosen at random from a seed. What must hold
//! throughout is looked at again and again, and what the agents cost is drawn.

mod agents;
mod checks;
mod follow;
mod play;
mod plot;
mod report;
mod samples;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use fastrand::Rng;

use crate::lab::demo::stop_flag;
use crate::lab::{Lab, is_root};
use agents::Node;
use checks::Baseline;
use report::{Report, Story};

/// Rounds between two looks at everything that takes a moment of rest.
const ROUNDS_TO_A_CHECK: u32 = 4;

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// How long, in minutes; the round at hand is finished, and everything checked once more
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// What the choices follow from; a new one without it
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where the report goes: soak.json and soak.svg
    #[arg(long, default_value = "target/soak")]
    pub out: PathBuf,
}

/// A soak under way.
struct Soak {
    lab: Lab,
    nodes: Vec<Node>,
    rng: Rng,
    story: Arc<Story>,
    /// Pods that were added, and are still there.
    extra: Vec<String>,
    /// How many were added ever.
    added: u32,
    /// Interfaces of pods that are gone.
    gone: Vec<String>,
}

/// Runs a soak to its end; the report is written in any case.
///
/// # Errors
/// Something that must hold did not, or the lab cannot be started.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        is_root(),
        "a soak makes network namespaces and loads eBPF programs; run it as root"
    );
    let length = Duration::try_from_secs_f64(options.minutes * 60.0)
        .with_context(|| format!("'{}' minutes are no time", options.minutes))?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("making {}", options.out.display()))?;
    println!("{:.1} minutes of soak, seed {seed}", options.minutes);
    let stop = stop_flag()?;
    let mut soak = Soak::start(seed)?;
    let outcome = soak.through(length, &stop);
    if outcome.is_err() {
        soak.keep_logs(&options.out);
    }
    let Soak { nodes, story, .. } = soak;
    let tracks = nodes.into_iter().map(Node::end).collect();
    let report = Report::new(seed, &story, tracks, outcome.as_ref().err());
    report.write(&options.out)?;
    println!("{report}");
    outcome.with_context(|| format!("the soak with seed {seed} failed"))
}

impl Soak {
    /// A lab with an agent on each node, as long as nothing happens to them.
    fn start(seed: u64) -> Result<Self> {
        let lab = Lab::builder("soak").start()?;
        let story = Arc::new(Story::new(Instant::now()));
        let mut nodes = Vec::new();
        for index in 0..lab.topology().nodes.len() {
            nodes.push(Node::start(&lab, index, &story)?);
        }
        Ok(Self {
            lab,
            nodes,
            rng: Rng::with_seed(seed),
            story,
            extra: Vec::new(),
            added: 0,
            gone: Vec::new(),
        })
    }

    fn through(&mut self, length: Duration, stop: &AtomicBool) -> Result<()> {
        let end = Instant::now() + length;
        // What an agent is at rest is known after its first round: caches are filled by then.
        self.round()?;
        let mut baseline = Baseline::take(self)?;
        let mut rounds = 1;
        while Instant::now() < end && !stop.load(Ordering::SeqCst) {
            self.round().with_context(|| format!("round {rounds}"))?;
            rounds += 1;
            if rounds % ROUNDS_TO_A_CHECK == 0 {
                baseline
                    .check(self)
                    .with_context(|| format!("after round {rounds}"))?;
            }
        }
        baseline.check(self).context("at the end")?;
        baseline.memory()?;
        for node in &self.nodes {
            let (followed, index) = (node.followed(), node.index());
            self.story.tell(format!(
                "node{index}: {} records, connections with a portion told again: {} ({} agents \
                 killed)",
                followed.records,
                followed.again.len(),
                node.killed()
            ));
        }
        self.story.tell(format!("{rounds} rounds, everything held"));
        Ok(())
    }

    /// Keeps what the agents said for whoever looks for the fault.
    fn keep_logs(&self, out: &std::path::Path) {
        for node in &self.nodes {
            let path = out.join(format!("node{}.log", node.index()));
            if let Err(error) = std::fs::write(&path, node.log()) {
                eprintln!("{} was not written: {error}", path.display());
            }
        }
    }

    /// An error when an agent ended by itself.
    fn alive(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if !node.is_running() {
                bail!(
                    "the agent on node{} ended: {}",
                    node.index(),
                    node.log().trim()
                );
            }
        }
        Ok(())
    }
}
