//! Metrics of health probes.

use std::time::{Duration, Instant, UNIX_EPOCH};

use prometheus::{GaugeVec, HistogramVec};

use super::Error;
use super::family::Family;
use super::present::Present;
use super::registrar::Registrar;
use super::room::{OTHER, Room};
use super::snapshot::Snapshot;
use crate::insight::probes::{Ended, LocalEndpoints};

/// From a pod next door to the longest timeout of a load balancer, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// See the file.
pub(super) struct ProbeMetrics {
    results: Family,
    duration: HistogramVec,
    last_seen: GaugeVec,
    /// The targets that have a series of `last_seen`.
    targets: Room,
    local_endpoints: Snapshot,
    /// What it shows.
    endpoints: Vec<LocalEndpoints>,
}

impl ProbeMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Result<Self, Error> {
        registrar.section("Health probes");
        let results = registrar.family(
            "probe_results_total",
            "Health probes by how they ended.",
            &["kind", "namespace", "target", "result"],
        )?;
        let duration = registrar.histograms(
            "probe_duration_seconds",
            "From a probe's first packet to its answer.",
            &["kind"],
            &BUCKETS,
        )?;
        let (last_seen, targets) = registrar.times(
            "probe_last_seen_timestamp_seconds",
            "When the newest probe of a target came, as seconds since 1970.",
            &["kind", "namespace", "target"],
        )?;
        let local_endpoints = registrar.snapshot(
            "healthcheck_local_endpoints",
            "Ready endpoints of a service on this node, as the health-check answer and as the \
             API has it.",
            &["namespace", "service", "source"],
        )?;
        Ok(Self {
            results,
            duration,
            last_seen,
            targets,
            local_endpoints,
            endpoints: Vec::new(),
        })
    }

    /// Counts a probe.
    pub(super) fn observe(&mut self, probe: &Ended, now: Instant) {
        let kind = probe.kind.name();
        let labels = [kind, &probe.namespace, &probe.target, probe.result.name()];
        self.results.add(&labels, 1, now);
        if let Some(latency) = probe.latency {
            self.duration
                .with_label_values(&[kind])
                .observe(latency.as_secs_f64());
        }
        let seen = probe.seen.duration_since(UNIX_EPOCH).unwrap_or_default();
        let target = [kind, probe.namespace.as_str(), probe.target.as_str()];
        let own = self.targets.take(&target, now);
        if !own {
            self.targets.limit();
        }
        let labels = if own { target } else { [OTHER; 3] };
        self.last_seen
            .with_label_values(&labels)
            .set(seen.as_secs_f64());
    }

    /// Takes over what both sides say of services; those that are gone lose their series.
    pub(super) fn set_local_endpoints(&mut self, all: &[LocalEndpoints]) {
        // They are told several times a second, and seldom change.
        if self.endpoints == all {
            return;
        }
        self.endpoints = all.to_vec();
        let told = all.iter().flat_map(|one| {
            let sides = [("probe", one.probe), ("api", Some(one.api))];
            sides.into_iter().filter_map(|(source, value)| {
                let (namespace, name) = (&one.service.namespace, &one.service.name);
                Some((vec![namespace.as_str(), name.as_str(), source], value?))
            })
        });
        self.local_endpoints.set(told);
    }

    /// Ends series of targets that are gone, some time after their last probe.
    pub(super) fn expire(&mut self, now: Instant, age: Duration, present: &Present) {
        self.results
            .expire(now, age, |values| present.has_target(values));
        let last_seen = &self.last_seen;
        let is_there = |values: &[&str]| present.has_target(values);
        self.targets.expire(now, age, is_there, |values| {
            // A series that is not there has nothing to drop.
            let _ = last_seen.remove_label_values(values);
        });
    }
}
