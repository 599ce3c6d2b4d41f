//! Metrics of DNS.

use prometheus::{Histogram, IntCounterVec};

use super::Error;
use super::registrar::Registrar;
use crate::insight::dns::{Answered, Outcome};

/// From a server on the node to the patience of resolvers, in seconds.
const BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0,
];

/// The type of questions whose answer was not read.
const UNKNOWN: &str = "";

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
             when its header was not read. `qtype` is the type that was asked for, `other` for \
             unusual ones, read with `--capture-dns` only and empty where no answer was read.",
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
        let open = open.map(|(code, count)| Answered {
            code,
            asked: UNKNOWN,
            count,
        });
        for one in outcome.answered.iter().chain(&open) {
            if one.count > 0 {
                let labels = [one.code, one.asked];
                self.queries.with_label_values(&labels).inc_by(one.count);
            }
        }
        if let Some(latency) = outcome.latency {
            self.duration.observe(latency.as_secs_f64());
        }
    }
}
