//! Counters with labels from the outside world: bounded in number.

use std::collections::HashSet;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::Error;

/// The value of all labels of the series that takes what has no room of its own.
const OTHER: &str = "other";

/// Prefix of all names.
pub(super) const NAMESPACE: &str = "nodescope";

/// A metric by name and help.
pub(super) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

/// A counter without labels.
pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    let counter = IntCounter::with_opts(opts(name, help))?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

/// A counter with labels.
pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, Error> {
    let counters = IntCounterVec::new(opts(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

/// A counter of which no more than a number of series can come to be.
pub(super) struct Family {
    counters: IntCounterVec,
    known: HashSet<Box<str>>,
    max_series: usize,
    limited: IntCounter,
    labels: usize,
}

impl Family {
    pub(super) fn new(
        registry: &Registry,
        name: &str,
        help: &str,
        labels: &[&str],
        max_series: usize,
        limited: &IntCounterVec,
    ) -> Result<Self, Error> {
        let counters = counters(registry, name, help, labels)?;
        let full_name = format!("{NAMESPACE}_{name}");
        let limited = limited.get_metric_with_label_values(&[full_name.as_str()])?;
        let known = HashSet::new();
        Ok(Self {
            counters,
            known,
            max_series,
            limited,
            labels: labels.len(),
        })
    }

    /// Adds to the series of these labels, or to the one for the rest.
    pub(super) fn add(&mut self, labels: &[&str], more: u64) {
        debug_assert_eq!(labels.len(), self.labels);
        if more == 0 {
            return;
        }
        let key = labels.join("\0");
        if self.known.contains(key.as_str()) {
            self.counters.with_label_values(labels).inc_by(more);
        } else if self.known.len() < self.max_series {
            self.known.insert(key.into());
            self.counters.with_label_values(labels).inc_by(more);
        } else {
            self.limited.inc();
            self.counters
                .with_label_values(&vec![OTHER; self.labels])
                .inc_by(more);
        }
    }
}
