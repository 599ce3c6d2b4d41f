//! What the agent says about itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::Error;
use super::family::{NAMESPACE, counters, opts};
use super::programs::Programs;
use crate::datapath::ProgramCost;
use crate::flow::{Counts, Direction, Role};
use crate::sink::names;

/// A drain walks thousands of entries in a few milliseconds, in seconds.
const DRAIN_BUCKETS: [f64; 10] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
];

/// Metrics about the agent. Counters take absolute values, see the room.
pub struct SelfMetrics {
    build_info: IntGaugeVec,
    attached_hooks: IntGaugeVec,
    hook_packets: Mirror,
    hook_bytes: Mirror,
    hook_offload: Mirror,
    unattributed_packets: Mirror,
    unattributed_bytes: Mirror,
    flow_table_entries: IntGauge,
    flow_table_limit: IntGauge,
    events_lost: Mirror,
    drops_unplaced: Mirror,
    freed: Mirror,
    given_up: Mirror,
    drain: Histogram,
    conntrack_entries: IntGauge,
    conntrack_limit: IntGauge,
    kube_objects: IntGaugeVec,
    kube_watch_errors: Mirror,
    series_limited: IntCounterVec,
    programs: Programs,
}

impl SelfMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, Error> {
            let gauge = IntGauge::with_opts(opts(name, help))?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, Error> {
            let gauges = IntGaugeVec::new(opts(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let mirror = |name: &str, help: &str, labels: &[&str]| -> Result<Mirror, Error> {
            Ok(Mirror::new(counters(registry, name, help, labels)?))
        };
        let drain = HistogramOpts::new(
            "drain_duration_seconds",
            "Time to read the table of conversations once.",
        );
        let drain =
            Histogram::with_opts(drain.namespace(NAMESPACE).buckets(DRAIN_BUCKETS.to_vec()))?;
        registry.register(Box::new(drain.clone()))?;
        Ok(Self {
            build_info: gauges("build_info", "The agent: always 1.", &["version", "kernel"])?,
            attached_hooks: gauges(
                "attached_hooks",
                "Programs attached to an interface, of its two directions.",
                &["interface", "role"],
            )?,
            hook_packets: mirror(
                "hook_packets_total",
                "Packets that a hook saw, as the interface counts them.",
                &["interface", "direction"],
            )?,
            hook_bytes: mirror(
                "hook_bytes_total",
                "Bytes that a hook saw, link-layer headers included.",
                &["interface", "direction"],
            )?,
            hook_offload: mirror(
                "hook_offload_segments_total",
                "Segments beyond the first of packets that offload left whole: flows count \
                 them, interfaces do not.",
                &["interface", "direction"],
            )?,
            unattributed_packets: mirror(
                "hook_unattributed_packets_total",
                "Packets that a hook saw and that are in no flow.",
                &["interface", "direction", "reason"],
            )?,
            unattributed_bytes: mirror(
                "hook_unattributed_bytes_total",
                "Bytes that a hook saw and that are in no flow.",
                &["interface", "direction", "reason"],
            )?,
            flow_table_entries: gauge(
                "flow_table_entries",
                "Conversations in the table of the kernel side.",
            )?,
            flow_table_limit: gauge("flow_table_limit", "Conversations that fit.")?,
            given_up: mirror(
                "given_up_total",
                "Records taken out of the flow table, and connections closed, before their time for want of room.",
                &["kind"],
            )?,
            events_lost: mirror(
                "events_lost_total",
                "Events and records that did not reach their reader.",
                &["kind"],
            )?,
            drops_unplaced: mirror(
                "drops_unplaced_total",
                "Dropped packets for whose tuple the kernel side had no room, by reason.",
                &["reason"],
            )?,
            freed: mirror(
                "freed_packets_total",
                "Packets that the kernel freed and that are no loss of this node, by kind.",
                &["kind"],
            )?,
            drain,
            conntrack_entries: gauge(
                "conntrack_entries",
                "Connections that the node's conntrack holds.",
            )?,
            conntrack_limit: gauge("conntrack_limit", "Connections that fit; 0: no limit.")?,
            kube_objects: gauges("kube_objects", "Kubernetes objects known.", &["kind"])?,
            kube_watch_errors: mirror(
                "kube_watch_errors_total",
                "Failed lists and watches.",
                &["kind"],
            )?,
            series_limited: counters(
                registry,
                "metric_series_limited_total",
                "Additions to a metric that went to the series `other` for want of room.",
                &["metric"],
            )?,
            programs: Programs::new(registry)?,
        })
    }

    pub(super) fn series_limited(&self) -> &IntCounterVec {
        &self.series_limited
    }

    /// Version of the agent, release of the kernel.
    pub fn set_build_info(&self, version: &str, kernel: &str) {
        self.build_info.reset();
        self.build_info.with_label_values(&[version, kernel]).set(1);
    }

    /// All interfaces with the number of programs attached; those not named are gone.
    pub fn set_attached_hooks<'a>(
        &self,
        interfaces: impl IntoIterator<Item = (&'a str, Role, usize)>,
    ) {
        self.attached_hooks.reset();
        for (interface, role, hooks) in interfaces {
            let gauge = self
                .attached_hooks
                .with_label_values(&[interface, names::role(role)]);
            gauge.set(saturate(hooks as u64));
        }
    }

    /// What a hook saw since it was attached, in flows and in none, as the interface counts it;
    /// and the segments by which flows count more.
    pub fn set_hook(&self, interface: &str, direction: Direction, seen: Counts, offload: u64) {
        let labels = [interface, names::direction(direction)];
        // Records and offloaded segments are read one after the other: for a moment there may be
        // more segments than the records have.
        self.hook_packets.raise(&labels, seen.packets);
        self.hook_bytes.set(&labels, seen.bytes);
        self.hook_offload.set(&labels, offload);
    }

    /// What a hook saw since it was attached and could put into no flow, by reason.
    pub fn set_hook_unattributed(
        &self,
        interface: &str,
        direction: Direction,
        reason: &str,
        counts: Counts,
    ) {
        let labels = [interface, names::direction(direction), reason];
        self.unattributed_packets.set(&labels, counts.packets);
        self.unattributed_bytes.set(&labels, counts.bytes);
    }

    /// Drops the series of an interface that went; one of the same name starts anew.
    pub fn forget_interface(&self, interface: &str) {
        for mirror in [
            &self.hook_packets,
            &self.hook_bytes,
            &self.hook_offload,
            &self.unattributed_packets,
            &self.unattributed_bytes,
        ] {
            mirror.forget(interface);
        }
    }

    /// Conversations in the table of the kernel side, and how many fit.
    pub fn set_flow_table(&self, entries: u64, limit: u64) {
        self.flow_table_entries.set(saturate(entries));
        self.flow_table_limit.set(saturate(limit));
    }

    /// Connections that the node's conntrack holds, and how many fit.
    pub fn set_conntrack(&self, entries: u64, limit: u64) {
        self.conntrack_entries.set(saturate(entries));
        self.conntrack_limit.set(saturate(limit));
    }

    /// Events lost since the start, by kind (`ringbuf`, `flow_log`, …).
    pub fn set_events_lost(&self, kind: &str, lost: u64) {
        self.events_lost.set(&[kind], lost);
    }

    /// Dropped packets that found the kernel's table full, by reason, since the start.
    pub fn set_drops_unplaced(&self, reason: &str, packets: u64) {
        self.drops_unplaced.set(&[reason], packets);
    }

    /// Freed packets that were no loss of this node, by kind, since the start.
    pub fn set_freed(&self, kind: &str, packets: u64) {
        self.freed.set(&[kind], packets);
    }

    /// Records and connections given up since the start, for want of room.
    pub fn set_given_up(&self, records: u64, connections: u64) {
        self.given_up.set(&["record"], records);
        self.given_up.set(&["connection"], connections);
    }

    /// Time that one drain took.
    pub fn observe_drain(&self, time: Duration) {
        self.drain.observe(time.as_secs_f64());
    }

    /// What the kernel side's programs cost since they were loaded.
    pub fn set_programs(&self, costs: &[ProgramCost]) {
        self.programs.set(costs);
    }

    /// Objects of a kind that are known now.
    pub fn set_kube_objects(&self, kind: &str, objects: usize) {
        self.kube_objects
            .with_label_values(&[kind])
            .set(saturate(objects as u64));
    }

    /// Failed lists and watches of a kind since the start.
    pub fn set_kube_watch_errors(&self, kind: &str, errors: u64) {
        self.kube_watch_errors.set(&[kind], errors);
    }
}

fn saturate(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A counter that shows what another holds.
struct Mirror {
    counters: IntCounterVec,
    last: Mutex<HashMap<Vec<String>, u64>>,
}

impl Mirror {
    fn new(counters: IntCounterVec) -> Self {
        Self {
            counters,
            last: Mutex::new(HashMap::new()),
        }
    }

    /// Takes over an absolute value. A smaller one than before means that the source began
    /// anew: all of it is new.
    fn set(&self, labels: &[&str], value: u64) {
        let counter = self.counters.with_label_values(labels);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let key = labels.iter().map(|label| (*label).to_owned()).collect();
        let last = last.entry(key).or_default();
        counter.inc_by(if value >= *last { value - *last } else { value });
        *last = value;
    }

    /// As [`Mirror::set`] for a source that does not begin anew: a smaller value is an early one.
    fn raise(&self, labels: &[&str], value: u64) {
        let known = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let key: Vec<_> = labels.iter().map(|label| (*label).to_owned()).collect();
            last.get(&key).copied().unwrap_or_default()
        };
        self.set(labels, value.max(known));
    }

    /// Drops the series whose first label is this.
    fn forget(&self, first: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|labels, _| {
            let goes = labels.first().is_some_and(|label| label == first);
            if goes {
                // A series that is not there has nothing to drop.
                let _ = self.counters.remove_label_values(labels);
            }
            !goes
        });
    }
}
