//! Metrics for Prometheus.
//!
//! Two ways in. Flow records are handed to [`Metrics::observe`], once each and in order: it
//! counts their deltas. What the agent knows about itself is set with the methods of
//! [`SelfMetrics`]; counters there take the **absolute** value that the kernel or the agent
//! holds, so that a value read twice is not counted twice, and a source that began anew
//! (smaller value than before) counts from zero.

mod connections;
mod family;
mod feed;
mod flows;
mod labels;
mod nat;
mod own;
mod probes;
mod programs;
mod server;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prometheus::{Encoder as _, Registry, TextEncoder};

use crate::cluster::Inventory;
use crate::flow::Flow;
use crate::insight::probes::{Ended, LocalEndpoints};

pub use feed::{Sources, feed};
pub use labels::{FlowLabel, FlowLabels};
pub use own::SelfMetrics;
pub use server::{Error as ListenError, bind, serve};

/// Series a metric may have when nothing else is said.
pub const DEFAULT_MAX_SERIES: usize = 10_000;

/// Media type of the text format, version 0.0.4.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How metrics are labelled and bounded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which labels about the ends flow metrics have.
    pub labels: FlowLabels,
    /// Series a metric may have; what comes after goes to one whose labels say `other`.
    pub max_series: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            labels: FlowLabels::default(),
            max_series: DEFAULT_MAX_SERIES,
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
    flows: Mutex<flows::FlowMetrics>,
    probes: Mutex<probes::ProbeMetrics>,
    own: SelfMetrics,
    snat_ports: nat::SnatPorts,
}

impl Metrics {
    /// Metrics that say nothing yet.
    ///
    /// # Errors
    /// When two metrics have one name, which is a mistake in this build.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let registry = Registry::new();
        let own = SelfMetrics::new(&registry)?;
        let limited = own.series_limited().clone();
        let flows = flows::FlowMetrics::new(&registry, options, &limited)?;
        let snat_ports = nat::SnatPorts::new(&registry, options.max_series)?;
        let probes = probes::ProbeMetrics::new(&registry, options, &limited)?;
        Ok(Self {
            registry,
            probes: Mutex::new(probes),
            flows: Mutex::new(flows),
            own,
            snat_ports,
        })
    }

    /// Counts flow records: each once, those of a connection in order.
    pub fn observe<'a>(&self, records: impl IntoIterator<Item = &'a Flow>) {
        // A panic in between leaves whole numbers behind, nothing half-done.
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            flows.observe(record);
        }
    }

    /// Where the policies of services are told: their connections are counted by policy.
    pub fn know_services(&self, inventory: Arc<ArcSwap<Inventory>>) {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.know_services(inventory);
    }

    /// Takes over the source ports in use now, by destination, most first.
    pub fn set_snat_ports(&self, in_use: impl Iterator<Item = (String, usize)>) {
        self.snat_ports.set(in_use);
    }

    /// Counts probes that ended, each once, and takes over what health-check answers and the API
    /// say of services now.
    pub fn observe_probes(&self, ended: &[Ended], services: &[LocalEndpoints]) {
        // As in `observe`.
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        for one in ended {
            probes.observe(one);
        }
        probes.set_local_endpoints(services);
    }

    /// What the agent says about itself.
    pub fn own(&self) -> &SelfMetrics {
        &self.own
    }

    /// All metrics in the text format.
    ///
    /// # Errors
    /// When a metric cannot be written, which is a mistake in this build.
    pub fn text(&self) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
