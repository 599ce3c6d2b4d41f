//! Metrics for Prometheus.
//!
//! Two ways in. Flow records are handed to [`Metrics::observe`], once each and in order: it
//! counts their deltas. What the agent knows about itself is set with the methods of
//! [`SelfMetrics`]; counters there take the **absolute** value that the kernel or the agent
//! holds, so that a value read twice is not counted twice, and a source that began anew
//! (smaller value than before) counts from zero.
//!
//! Metrics are made by the registrar, which also writes down what there is: [`page`] lists it.

mod connections;
mod dns;
mod family;
mod feed;
mod flows;
mod labels;
mod mirror;
mod openmetrics;
mod own;
mod page;
mod present;
mod probes;
mod process;
mod programs;
mod registrar;
mod room;
mod server;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder as _, Registry, TextEncoder};

use crate::cluster::Inventory;
use crate::flow::Flow;
use crate::insight::dns::Outcome;
use crate::insight::probes::{Ended, LocalEndpoints};

pub use feed::{Lost, Sources, feed};
pub use labels::{FlowLabel, FlowLabels};
pub use openmetrics::Format;
pub use own::SelfMetrics;
pub use page::page;
pub use registrar::Described;
pub use server::{Error as ListenError, bind, serve};

use present::Present;
use registrar::Registrar;

/// Series a metric may have when nothing else is said.
pub const DEFAULT_MAX_SERIES: usize = 10_000;

/// How long a series outlives what it names, when nothing else is said: longer than any interval
/// at which Prometheus is made to read, and than its own patience with a silent target.
pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(600);

/// Series that may have ended are looked for so often in the time that they stay.
const SWEEPS: u32 = 10;

/// How metrics are labelled and bounded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which labels about the ends flow metrics have.
    pub labels: FlowLabels,
    /// Series a metric may have; what comes after goes to one whose labels say `other`.
    pub max_series: usize,
    /// How long after the last of it a series of something that is gone ends.
    pub expiry: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            labels: FlowLabels::default(),
            max_series: DEFAULT_MAX_SERIES,
            expiry: DEFAULT_EXPIRY,
        }
    }
}

/// A metric that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct Error(#[from] prometheus::Error);

/// All metrics of the agent.
pub struct Metrics {
    registry: Registry,
    catalog: Vec<Described>,
    labels: FlowLabels,
    expiry: Duration,
    swept: Mutex<Option<Instant>>,
    flows: Mutex<flows::FlowMetrics>,
    probes: Mutex<probes::ProbeMetrics>,
    dns: dns::DnsMetrics,
    own: SelfMetrics,
}

impl Metrics {
    /// Metrics that say nothing yet.
    ///
    /// # Errors
    /// When two metrics have one name, which is a mistake in this build.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let mut registrar = Registrar::new(options.max_series)?;
        let flows = flows::FlowMetrics::new(&mut registrar, options.labels.clone())?;
        let probes = probes::ProbeMetrics::new(&mut registrar)?;
        let dns = dns::DnsMetrics::new(&mut registrar)?;
        let own = SelfMetrics::new(&mut registrar)?;
        let (registry, catalog) = registrar.done();
        Ok(Self {
            registry,
            catalog,
            labels: options.labels.clone(),
            expiry: options.expiry,
            swept: Mutex::default(),
            flows: Mutex::new(flows),
            probes: Mutex::new(probes),
            dns,
            own,
        })
    }

    /// Counts flow records: each once, those of a connection in order.
    pub fn observe<'a>(&self, records: impl IntoIterator<Item = &'a Flow>) {
        let now = Instant::now();
        let mut flows = locked(&self.flows);
        for record in records {
            flows.observe(record, now);
        }
    }

    /// Where the policies of services are told: their connections are counted by policy.
    pub fn know_services(&self, inventory: Arc<ArcSwap<Inventory>>) {
        locked(&self.flows).know_services(inventory);
    }

    /// Counts probes that ended, each once, and takes over what health-check answers and the API
    /// say of services now.
    pub fn observe_probes(&self, ended: &[Ended], services: &[LocalEndpoints]) {
        let now = Instant::now();
        let mut probes = locked(&self.probes);
        for one in ended {
            probes.observe(one, now);
        }
        probes.set_local_endpoints(services);
    }

    /// Counts what became of DNS questions.
    pub fn observe_dns(&self, outcome: &Outcome) {
        self.dns.observe(outcome);
    }

    /// Ends the series of pods, workloads and services that are gone, and of which nothing was
    /// counted for [`Options::expiry`]. Cheap to call often.
    pub fn expire(&self, inventory: &Inventory, now: Instant) {
        let mut swept = locked(&self.swept);
        let since = swept.get_or_insert(now);
        if now.saturating_duration_since(*since) < self.expiry / SWEEPS {
            return;
        }
        *since = now;
        if let Some(present) = Present::of(inventory, &self.labels) {
            self.end_series(&present, now);
        }
    }

    fn end_series(&self, present: &Present, now: Instant) {
        locked(&self.flows).expire(now, self.expiry, present);
        locked(&self.probes).expire(now, self.expiry, present);
    }

    /// What the agent says about itself.
    pub fn own(&self) -> &SelfMetrics {
        &self.own
    }

    /// Every metric there is, whether it has series or not.
    pub fn catalog(&self) -> &[Described] {
        &self.catalog
    }

    /// All metrics as they are now.
    pub fn families(&self) -> Vec<MetricFamily> {
        self.own.look_at_process();
        self.registry.gather()
    }

    /// The same as text.
    ///
    /// # Errors
    /// When a metric cannot be written, which is a mistake in this build.
    pub fn text(&self, format: Format) -> Result<Vec<u8>, Error> {
        let families = self.families();
        if format == Format::OpenMetrics {
            return Ok(openmetrics::write(&families).into_bytes());
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

/// A panic in between leaves whole numbers behind, nothing half-done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
