//! What the server knows: recent flows, namespaces, when it started.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::drops::DropsService;
use super::insights::Insights;
use super::nat::NatService;
use super::peers::Network;
use super::ring::{Batch, Ring};
use crate::cluster::Agents;
use crate::engine::Status;
use crate::flow::{Flow, Identity};
use crate::insight::drops::Losses;
use crate::insight::here::Here;
use crate::insight::nat::Translations;
use crate::insight::probes::Probes;
use crate::sink::proto::node::DescribeResponse;

/// Flows kept when nothing else is said.
pub const DEFAULT_CAPACITY: usize = 4096;

/// A namespace is listed for so long after its last flow (Hubble API: the last hour).
const NAMESPACE_AGE: Duration = Duration::from_secs(3600);

/// The rate of flows is taken over so long (Hubble API: the last minute).
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// What the server says about itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub node: String,
    /// The API on the network; `None` when only the local socket is served.
    pub network: Option<Network>,
    /// Recent flows to keep, see [`DEFAULT_CAPACITY`].
    pub capacity: usize,
}

/// Flows for whoever asks. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Observer(Arc<Shared>);

struct Shared {
    config: Config,
    started: Instant,
    describe: Box<dyn Fn() -> DescribeResponse + Send + Sync>,
    recent: Mutex<Recent>,
    probes: OnceLock<Probes>,
    /// How many flows there ever were; wakes readers that wait for more.
    seen: watch::Sender<u64>,
    /// Open connections with their translation, where an agent keeps them.
    nat: OnceLock<NatService>,
    /// Packets that died, where an agent keeps them.
    drops: OnceLock<DropsService>,
    /// Services and checks, where an agent keeps what they take.
    insights: OnceLock<Insights>,
    /// Agents of the cluster, where the API tells.
    agents: OnceLock<watch::Receiver<Arc<Agents>>>,
    /// Flows that slow readers did not get, each reader counted.
    missed: AtomicU64,
    /// Turns true when streams have to end.
    closing: watch::Sender<bool>,
}

struct Recent {
    ring: Ring<Arc<Flow>>,
    namespaces: HashMap<String, SystemTime>,
}

impl Observer {
    /// A server without flows yet. `describe` is called for each `Node/Describe`.
    pub fn new(
        config: Config,
        describe: impl Fn() -> DescribeResponse + Send + Sync + 'static,
    ) -> Self {
        let recent = Recent {
            ring: Ring::new(config.capacity),
            namespaces: HashMap::new(),
        };
        Self(Arc::new(Shared {
            config,
            started: Instant::now(),
            describe: Box::new(describe),
            recent: Mutex::new(recent),
            probes: OnceLock::new(),
            seen: watch::Sender::new(0),
            nat: OnceLock::new(),
            drops: OnceLock::new(),
            insights: OnceLock::new(),
            agents: OnceLock::new(),
            missed: AtomicU64::new(0),
            closing: watch::Sender::new(false),
        }))
    }

    /// Serves `nodescope.v1.Nat` as well, from these; of several the first counts.
    #[must_use]
    pub fn with_translations(self, translations: Translations) -> Self {
        let node = self.0.config.node.clone();
        self.0
            .nat
            .get_or_init(|| NatService::new(node, translations));
        self
    }

    /// Serves `nodescope.v1.Services` and `nodescope.v1.Checks` as well, from this; of several
    /// the first counts.
    #[must_use]
    pub fn with_insights(self, here: Here) -> Self {
        self.0.insights.get_or_init(|| Insights::new(here));
        self
    }

    /// Serves `nodescope.v1.Drops` as well, from these; of several the first counts.
    #[must_use]
    pub fn with_losses(self, losses: Losses, statuses: watch::Receiver<Arc<Status>>) -> Self {
        let node = self.0.config.node.clone();
        self.0
            .drops
            .get_or_init(|| DropsService::new(node, losses, statuses));
        self
    }

    /// Tells relays of these agents, too; of several the first counts.
    #[must_use]
    pub fn with_agents(self, agents: watch::Receiver<Arc<Agents>>) -> Self {
        self.0.agents.get_or_init(|| agents);
        self
    }

    pub(super) fn watch_agents(&self) -> watch::Receiver<Arc<Agents>> {
        let none = || watch::channel(Arc::default()).1;
        self.0.agents.get().cloned().unwrap_or_else(none)
    }

    pub(super) fn agents(&self) -> Arc<Agents> {
        let known = self.0.agents.get();
        known.map_or_else(Arc::default, |known| Arc::clone(&known.borrow()))
    }

    /// Flows that slow readers were told they missed, all readers together.
    pub fn missed(&self) -> u64 {
        self.0.missed.load(Ordering::Relaxed)
    }

    pub(super) fn note_missed(&self, flows: u64) {
        self.0.missed.fetch_add(flows, Ordering::Relaxed);
    }

    pub(super) fn drops(&self) -> Option<&DropsService> {
        self.0.drops.get()
    }

    pub(super) fn insights(&self) -> Option<&Insights> {
        self.0.insights.get()
    }

    pub(super) fn nat(&self) -> Option<&NatService> {
        self.0.nat.get()
    }

    /// Has the server answer about probes as well; before it serves, and once.
    pub fn with_probes(self, probes: Probes) -> Self {
        // A second handle would be to the same probes.
        let _ = self.0.probes.set(probes);
        self
    }

    pub(super) fn probes(&self) -> Option<&Probes> {
        self.0.probes.get()
    }

    /// Adds flows, oldest first. Never waits for a reader: who is slow is told what it missed.
    pub fn push(&self, flows: impl IntoIterator<Item = Arc<Flow>>) {
        let seen = {
            let mut recent = self.recent();
            for flow in flows {
                recent.note_namespaces(&flow);
                recent.ring.push(flow);
            }
            recent.ring.seen()
        };
        self.0
            .seen
            .send_if_modified(|old| std::mem::replace(old, seen) != seen);
    }

    /// Ends all streams, so that a server can stop.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// What the server says about itself.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    pub(super) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(super) fn describe(&self) -> DescribeResponse {
        (self.0.describe)()
    }

    pub(super) fn watch_seen(&self) -> watch::Receiver<u64> {
        self.0.seen.subscribe()
    }

    pub(crate) fn watch_closing(&self) -> watch::Receiver<bool> {
        self.0.closing.subscribe()
    }

    /// All kept flows.
    pub(super) fn snapshot(&self) -> Batch<Arc<Flow>> {
        let recent = self.recent();
        let next = recent.ring.seen();
        Batch {
            lost: 0,
            items: recent.ring.iter().cloned().collect(),
            next,
        }
    }

    /// Up to `limit` flows from number `from` on.
    pub(super) fn read(&self, from: u64, limit: usize) -> Batch<Arc<Flow>> {
        self.recent().ring.read(from, limit)
    }

    /// Flows kept, flows that can be kept, flows ever.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let recent = self.recent();
        let ring = &recent.ring;
        (ring.len() as u64, ring.capacity() as u64, ring.seen())
    }

    /// Flows a second over the last minute, or over as much of it as is kept.
    pub(super) fn rate(&self, now: SystemTime) -> f64 {
        let age = |flow: &Arc<Flow>| now.duration_since(flow.time).unwrap_or_default();
        let recent = self.recent();
        let newer = recent
            .ring
            .iter()
            .rev()
            .take_while(|flow| age(flow) <= RATE_WINDOW);
        let (mut count, mut oldest) = (0_u32, Duration::ZERO);
        for flow in newer {
            count = count.saturating_add(1);
            oldest = age(flow);
        }
        // A full ring that does not reach back a minute says nothing about the time before.
        let all_kept = (recent.ring.len() as u64) == recent.ring.seen();
        let reaches_back = u64::from(count) < recent.ring.len() as u64;
        let window = if all_kept || reaches_back {
            self.uptime().min(RATE_WINDOW)
        } else {
            oldest
        };
        f64::from(count) / window.as_secs_f64().max(1.0)
    }

    /// Namespaces with a flow in the last hour, by name.
    pub(super) fn namespaces(&self, now: SystemTime) -> Vec<String> {
        let mut recent = self.recent();
        recent
            .namespaces
            .retain(|_, last| now.duration_since(*last).unwrap_or_default() <= NAMESPACE_AGE);
        let mut names: Vec<_> = recent.namespaces.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Nothing in here is left half-done by a panic.
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn note_namespaces(&mut self, flow: &Flow) {
        for pod in [&flow.source, &flow.destination]
            .into_iter()
            .filter_map(Identity::pod)
        {
            let namespace = &pod.name.namespace;
            if let Some(last) = self.namespaces.get_mut(namespace) {
                *last = flow.time;
            } else {
                self.namespaces.insert(namespace.clone(), flow.time);
            }
        }
    }
}
