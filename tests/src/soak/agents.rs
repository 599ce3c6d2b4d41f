//! The agents, one after another on each node, and who follows them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::follow::{Followed, Follower};
use super::report::{Story, Track};
use super::samples::Sampler;
use crate::identity::sample;
use crate::lab::{Agent, Lab, eventually};

/// Records come often, idle connections are over soon, and what is gone leaves the metrics: so
/// that everything can be looked at at rest.
const FLAGS: [&str; 8] = [
    "--flow-interval",
    "1s",
    "--idle-timeout",
    "5s",
    "--metrics-expiry",
    "5s",
    "--log-level",
    "info",
];

/// A node with the agent that runs on it.
pub struct Node {
    index: usize,
    agent: Agent,
    /// What agents said that ended.
    said: String,
    /// How many were killed.
    killed: usize,
    follower: Follower,
    sampler: Sampler,
}

impl Node {
    /// Starts the first agent.
    pub fn start(lab: &Lab, index: usize, story: &Arc<Story>) -> Result<Self> {
        let agent = launch(lab, index, &[])?;
        let track = Arc::new(Mutex::new(Track::new(index)));
        let mut follower = Follower::start(lab, index, story, Arc::clone(&track))?;
        follower.add(agent.flow_log())?;
        let sampler = Sampler::start(agent.pid(), lab.node(index), story, track)?;
        Ok(Self {
            index,
            agent,
            said: String::new(),
            killed: 0,
            follower,
            sampler,
        })
    }

    /// Its number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The agent.
    pub fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// The same, to look at.
    pub fn its_agent(&self) -> &Agent {
        &self.agent
    }

    /// Whether the agent runs.
    pub fn is_running(&mut self) -> bool {
        self.agent.is_running()
    }

    /// What all agents of the node said.
    pub fn log(&self) -> String {
        format!("{}{}", self.said, self.agent.log())
    }

    /// How many agents were killed.
    pub fn killed(&self) -> usize {
        self.killed
    }

    /// Whether new connections are made to see how late they are told.
    pub fn probe(&self, whether: bool) {
        self.follower.probe(whether);
    }

    /// What the records told so far.
    pub fn followed(&self) -> Followed {
        self.follower.followed()
    }

    /// Ends the agent by a signal and starts another after some time without one.
    pub fn replace(
        &mut self,
        lab: &Lab,
        signal: Signal,
        pause: Duration,
        flags: &[&str],
    ) -> Result<()> {
        if signal == Signal::KILL {
            self.killed += 1;
            self.agent.kill9()?;
        } else {
            self.agent.stop()?;
        }
        self.said += &self.agent.log();
        std::thread::sleep(pause);
        self.agent = launch(lab, self.index, flags)?;
        self.follower.add(self.agent.flow_log())?;
        self.sampler.follow(self.agent.pid());
        Ok(())
    }

    /// Ends everything; what was measured.
    pub fn end(self) -> Track {
        let track = self.sampler.end();
        drop(self.follower);
        let mut track = track.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *track, Track::new(self.index))
    }
}

/// An agent that takes over what the one before left.
fn launch(lab: &Lab, index: usize, flags: &[&str]) -> Result<Agent> {
    let bpffs = lab.bpffs()?;
    let bpffs = bpffs.to_str().context("a path that is no text")?;
    let mut all = vec!["--bpffs", bpffs];
    all.extend(FLAGS);
    all.extend(flags);
    let agent = lab.start_agent(index, &all)?;
    eventually("the agent knows the pods", || {
        let text = agent.metrics()?;
        let known = sample(&text, "nodescope_kube_objects", &[("kind", "pods")])?;
        Ok(known.is_some_and(|known| known > 0.0))
    })?;
    Ok(agent)
}
