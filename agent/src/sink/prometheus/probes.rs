//! Metrics of health probes.

use std::collections::{BTreeSet, HashSet};
use std::time::UNIX_EPOCH;

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Registry};

use super::family::{Family, NAMESPACE, opts};
use super::{Error, Options};
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
    local_endpoints: IntGaugeVec,
    /// Label values that have a series of `last_seen`.
    known: HashSet<[String; 3]>,
    services: BTreeSet<[String; 2]>,
    max_series: usize,
}

impl ProbeMetrics {
    pub(super) fn new(
        registry: &Registry,
        options: &Options,
        limited: &IntCounterVec,
    ) -> Result<Self, Error> {
        let duration = HistogramOpts::new(
            "probe_duration_seconds",
            "From a probe's first packet to its answer.",
        );
        let duration = HistogramVec::new(
            duration.namespace(NAMESPACE).buckets(BUCKETS.to_vec()),
            &["kind"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        let last_seen = GaugeVec::new(
            opts(
                "probe_last_seen_timestamp_seconds",
                "When the newest probe of a target came, as seconds since 1970.",
            ),
            &["kind", "namespace", "target"],
        )?;
        registry.register(Box::new(last_seen.clone()))?;
        let local_endpoints = IntGaugeVec::new(
            opts(
                "healthcheck_local_endpoints",
                "Ready endpoints of a service on this node, as the health-check answer and as \
                 the API has it.",
            ),
            &["namespace", "service", "source"],
        )?;
        registry.register(Box::new(local_endpoints.clone()))?;
        Ok(Self {
            results: Family::new(
                registry,
                "probe_results_total",
                "Health probes by how they ended.",
                &["kind", "namespace", "target", "result"],
                options.max_series,
                limited,
            )?,
            duration,
            last_seen,
            local_endpoints,
            known: HashSet::new(),
            services: BTreeSet::new(),
            max_series: options.max_series,
        })
    }

    /// Counts a probe.
    pub(super) fn observe(&mut self, probe: &Ended) {
        let kind = probe.kind.name();
        let labels = [kind, &probe.namespace, &probe.target, probe.result.name()];
        self.results.add(&labels, 1);
        if let Some(latency) = probe.latency {
            self.duration
                .with_label_values(&[kind])
                .observe(latency.as_secs_f64());
        }
        let series = [kind, &probe.namespace, &probe.target].map(str::to_owned);
        if self.known.len() < self.max_series || self.known.contains(&series) {
            let seen = probe.seen.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_seen
                .with_label_values(&series.each_ref().map(String::as_str))
                .set(seen.as_secs_f64());
            self.known.insert(series);
        }
    }

    /// Takes over what both sides say of services; those that are gone lose their series.
    pub(super) fn set_local_endpoints(&mut self, all: &[LocalEndpoints]) {
        let gauge = &self.local_endpoints;
        let mut here = BTreeSet::new();
        for one in all.iter().take(self.max_series / 2) {
            let (namespace, name) = (&one.service.namespace, &one.service.name);
            for (source, value) in [("probe", one.probe), ("api", Some(one.api))] {
                let labels = [namespace.as_str(), name.as_str(), source];
                match value {
                    Some(value) => gauge
                        .with_label_values(&labels)
                        .set(i64::try_from(value).unwrap_or(i64::MAX)),
                    // One that never was has nothing to lose.
                    None => drop(gauge.remove_label_values(&labels)),
                }
            }
            here.insert([namespace.clone(), name.clone()]);
        }
        for [namespace, name] in self.services.difference(&here) {
            for source in ["probe", "api"] {
                // As above.
                let _ = gauge.remove_label_values(&[namespace.as_str(), name.as_str(), source]);
            }
        }
        self.services = here;
    }
}
