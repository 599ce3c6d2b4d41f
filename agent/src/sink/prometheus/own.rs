//! What the agent says about itself.

use std::time::Duration;

use prometheus::{Histogram, IntGauge, IntGaugeVec};

use super::Error;
use super::mirror::Mirror;
use super::process::Process;
use super::programs::Programs;
use super::registrar::Registrar;
use super::snapshot::Snapshot;
use crate::datapath::ProgramCost;
use crate::engine::GivenUp;
use crate::flow::{Counts, Direction, Role};
use crate::insight::checks::SNAT_PORTS;
use crate::sink::names;

/// A drain walks thousands of entries in a few milliseconds, in seconds.
const DRAIN_BUCKETS: [f64; 10] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
];

/// Metrics about the agent. Counters take absolute values, see the room.
pub struct SelfMetrics {
    build_info: IntGaugeVec,
    snat_ports: Snapshot,
    attached_hooks: Snapshot,
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
    programs: Programs,
    process: Process,
}

impl SelfMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Result<Self, Error> {
        registrar.section("Translation and services");
        let snat_ports = registrar.snapshot(
            "snat_ports_in_use",
            "Source ports of this node that open connections use, by destination.",
            &["destination"],
        )?;
        let snat_limit = registrar.gauge(
            "snat_ports_limit",
            "Source ports that translated connections to one destination can have.",
        )?;
        snat_limit.set(saturate(SNAT_PORTS));
        let conntrack_entries = registrar.gauge(
            "conntrack_entries",
            "Connections that the node's conntrack holds.",
        )?;
        let conntrack_limit =
            registrar.gauge("conntrack_limit", "Connections that fit; 0: no limit.")?;
        registrar.section("Drops");
        let drops_unplaced = registrar.mirror(
            "drops_unplaced_total",
            "Dropped packets for whose tuple the kernel side had no room, by reason.",
            &["reason"],
        )?;
        let freed = registrar.mirror(
            "freed_packets_total",
            "Packets that the kernel freed and that are no loss of this node, by kind.",
            &["kind"],
        )?;
        registrar.section("Hooks");
        let attached_hooks = registrar.snapshot(
            "attached_hooks",
            "Programs attached to an interface, of its two directions.",
            &["interface", "role"],
        )?;
        let hook = ["interface", "direction"];
        let hook_packets = registrar.mirror(
            "hook_packets_total",
            "Packets that a hook saw, as the interface counts them.",
            &hook,
        )?;
        let hook_bytes = registrar.mirror(
            "hook_bytes_total",
            "Bytes that a hook saw, link-layer headers included.",
            &hook,
        )?;
        let hook_offload = registrar.mirror(
            "hook_offload_segments_total",
            "Segments beyond the first of packets that offload left whole: flows count them, \
             interfaces do not.",
            &hook,
        )?;
        let hook = ["interface", "direction", "reason"];
        let unattributed_packets = registrar.mirror(
            "hook_unattributed_packets_total",
            "Packets that a hook saw and that are in no flow.",
            &hook,
        )?;
        let unattributed_bytes = registrar.mirror(
            "hook_unattributed_bytes_total",
            "Bytes that a hook saw and that are in no flow.",
            &hook,
        )?;
        registrar.section("The agent itself");
        let build_info =
            registrar.gauges("build_info", "The agent: always 1.", &["version", "kernel"])?;
        let flow_table_entries = registrar.gauge(
            "flow_table_entries",
            "Conversations in the table of the kernel side.",
        )?;
        let flow_table_limit = registrar.gauge("flow_table_limit", "Conversations that fit.")?;
        let given_up = registrar.mirror(
            "given_up_total",
            "Records taken out of the flow table, and connections closed, before their time for \
             want of room, and records that an earlier version left in another layout.",
            &["kind"],
        )?;
        let events_lost = registrar.mirror(
            "events_lost_total",
            "Events and records that did not reach their reader.",
            &["kind"],
        )?;
        let drain = registrar.histogram(
            "drain_duration_seconds",
            "Time to read the table of conversations once.",
            &DRAIN_BUCKETS,
        )?;
        let programs = Programs::new(registrar)?;
        let kube_objects =
            registrar.gauges("kube_objects", "Kubernetes objects known.", &["kind"])?;
        let kube_watch_errors = registrar.mirror(
            "kube_watch_errors_total",
            "Failed lists and watches.",
            &["kind"],
        )?;
        let process = Process::new(registrar)?;
        Ok(Self {
            build_info,
            snat_ports,
            attached_hooks,
            hook_packets,
            hook_bytes,
            hook_offload,
            unattributed_packets,
            unattributed_bytes,
            flow_table_entries,
            flow_table_limit,
            events_lost,
            drops_unplaced,
            freed,
            given_up,
            drain,
            conntrack_entries,
            conntrack_limit,
            kube_objects,
            kube_watch_errors,
            programs,
            process,
        })
    }

    /// Version of the agent, release of the kernel.
    pub fn set_build_info(&self, version: &str, kernel: &str) {
        self.build_info.reset();
        self.build_info.with_label_values(&[version, kernel]).set(1);
    }

    /// Source ports in use now, by destination, most first.
    pub fn set_snat_ports(&self, in_use: impl IntoIterator<Item = (String, u64)>) {
        let labelled = in_use.into_iter().map(|(to, ports)| (vec![to], ports));
        self.snat_ports.set(labelled);
    }

    /// All interfaces with the number of programs attached; those not named are gone.
    pub fn set_attached_hooks<'a>(
        &self,
        interfaces: impl IntoIterator<Item = (&'a str, Role, u64)>,
    ) {
        let labelled = interfaces
            .into_iter()
            .map(|(interface, role, hooks)| (vec![interface, names::role(role)], hooks));
        self.attached_hooks.set(labelled);
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

    /// Looks at the process now.
    pub(super) fn look_at_process(&self) {
        self.process.look();
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

    /// Records and connections given up since the start, for want of room, and records of an
    /// earlier agent that had another layout.
    pub fn set_given_up(&self, given_up: GivenUp) {
        let GivenUp {
            records,
            connections,
            layout,
        } = given_up;
        self.given_up.set(&["record"], records);
        self.given_up.set(&["connection"], connections);
        self.given_up.set(&["layout"], layout);
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
