//! Metrics of DNS.

use prometheus::{Histogram, IntCounterVec};

use super::Error;
use super::registrar::Registrar;
use crate::insight::dns::Outcome;

/// From a server on the node to the patience of resolvers, in seconds.
const BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0,
];

/// The type of every question: they are behind names, which are not read.
const TYPE: &str = "";

/// See the file.
pub(super) struct DnsMetrics {
    queries: IntCounterVec,
    duration: Histogram,
}

impl DnsMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Result<Self, Error> {
        registrar.section("DNS");
        let queries = registrar.counters(
            "dns_queries_total",
            "Questions over UDP by the code of their answer: `none` when there was none, `unread` \
             when its header was not read. `qtype` is empty: questions are not read.",
            &["rcode", "qtype"],
        )?;
        let duration = registrar.histogram(
            "dns_duration_seconds",
            "From the first question of a conversation to the first answer, nearest to the client.",
            &BUCKETS,
        )?;
        Ok(Self { queries, duration })
    }

    /// Counts what became of questions.
    pub(super) fn observe(&self, outcome: &Outcome) {
        let open = [("unread", outcome.unread), ("none", outcome.unanswered)];
        for (code, count) in outcome.answered.iter().copied().chain(open) {
            if count > 0 {
                self.queries.with_label_values(&[code, TYPE]).inc_by(count);
            }
        }
        if let Some(latency) = outcome.latency {
            self.duration.observe(latency.as_secs_f64());
        }
    }
}
