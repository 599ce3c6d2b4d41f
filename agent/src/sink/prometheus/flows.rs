//! What flow records add up to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGaugeVec};

use super::Error;
use super::connections::{Connections, News};
use super::family::Family;
use super::labels::FlowLabels;
use super::present::Present;
use super::registrar::Registrar;
use crate::cluster::Inventory;
use crate::flow::{Class, Flow, NatKind};
use crate::insight::services;
use crate::sink::names;

/// From a neighbour in the same rack to a far continent, in seconds.
const HANDSHAKE_BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0,
];

pub(super) struct FlowMetrics {
    labels: FlowLabels,
    drops: Family,
    bytes: Family,
    packets: Family,
    services: Family,
    opened: IntCounterVec,
    active: IntGaugeVec,
    handshake: Histogram,
    resets: IntCounter,
    unanswered: IntCounter,
    retransmits: IntCounter,
    nat: IntCounterVec,
    mismatches: IntCounter,
    connections: Connections,
    inventory: Option<Arc<ArcSwap<Inventory>>>,
}

impl FlowMetrics {
    pub(super) fn new(registrar: &mut Registrar, labels: FlowLabels) -> Result<Self, Error> {
        let with_ends =
            |own: [&'static str; 2]| own.into_iter().chain(labels.names()).collect::<Vec<_>>();
        let names = with_ends(["class", "direction"]);
        registrar.section("Traffic");
        let bytes = registrar.family(
            "flow_bytes_total",
            "Bytes of flows, as interfaces count them.",
            &names,
        )?;
        let packets = registrar.family(
            "flow_packets_total",
            "Packets of flows, on the wire.",
            &names,
        )?;
        let opened = registrar.counters(
            "connections_opened_total",
            "Connections seen for the first time.",
            &["class"],
        )?;
        let active = registrar.gauges(
            "connections_active",
            "Connections that are open.",
            &["class"],
        )?;
        let handshake = registrar.histogram(
            "tcp_handshake_seconds",
            "Time from SYN to SYN+ACK at the hop nearest to the initiator.",
            &HANDSHAKE_BUCKETS,
        )?;
        let retransmits = registrar.counter(
            "tcp_retransmits_total",
            "TCP segments that sockets of this node sent again.",
        )?;
        let resets = registrar.counter(
            "tcp_resets_total",
            "TCP connections that one side reset or refused.",
        )?;
        let unanswered = registrar.counter(
            "tcp_unanswered_total",
            "TCP connections that ended without an answer to the SYN.",
        )?;
        registrar.section("Translation and services");
        let nat = registrar.counters(
            "nat_connections_total",
            "Connections by translation, its cause and what the configuration says.",
            &["kind", "cause", "expected"],
        )?;
        let mismatches = registrar.counter(
            "snat_mismatch_total",
            "Connections whose initiator was translated or kept against the configuration.",
        )?;
        let services = registrar.family(
            "service_connections_total",
            "Connections to services, by whether the client's address reached the backend.",
            &["namespace", "service", "policy", "client_ip"],
        )?;
        registrar.section("Drops");
        let drops = registrar.family(
            "drops_total",
            "Packets that the kernel dropped on this node, by its reason.",
            &with_ends(["reason", "direction"]),
        )?;
        Ok(Self {
            drops,
            bytes,
            packets,
            services,
            opened,
            active,
            handshake,
            resets,
            unanswered,
            retransmits,
            nat,
            mismatches,
            connections: Connections::default(),
            inventory: None,
            labels,
        })
    }

    /// Ends series that name what is gone, some time after the last of it.
    pub(super) fn expire(&mut self, now: Instant, age: Duration, present: &Present) {
        for family in [&mut self.bytes, &mut self.packets, &mut self.drops] {
            family.expire(now, age, |values| present.has_flow(values));
        }
        self.services
            .expire(now, age, |values| present.has_service(values));
    }

    pub(super) fn observe(&mut self, flow: &Flow, now: Instant) {
        // Packets that died were counted by the hooks that they passed before.
        if let Some(drop) = &flow.drop {
            let ends = self.labels.values(flow);
            let labels: Vec<_> = [&*drop.reason, names::direction(drop.direction)]
                .into_iter()
                .chain(ends)
                .collect();
            self.drops.add(&labels, flow.forward.delta.packets, now);
            return;
        }
        let class = names::class(flow.class);
        for (direction, traffic) in [("forward", &flow.forward), ("reply", &flow.reply)] {
            let ends = self.labels.values(flow);
            let labels: Vec<_> = [class, direction].into_iter().chain(ends).collect();
            self.bytes.add(&labels, traffic.delta.bytes, now);
            self.packets.add(&labels, traffic.delta.packets, now);
        }
        for news in self.connections.news(flow) {
            self.count(flow, news, now);
        }
    }

    fn count(&mut self, flow: &Flow, news: News, now: Instant) {
        match news {
            News::Opened(class) => {
                let class = names::class(class);
                self.opened.with_label_values(&[class]).inc();
                self.active.with_label_values(&[class]).inc();
            }
            News::Reclassed { from, to } => {
                self.active.with_label_values(&[names::class(from)]).dec();
                self.active.with_label_values(&[names::class(to)]).inc();
            }
            News::Closed(class) => self.active.with_label_values(&[names::class(class)]).dec(),
            News::Handshake(time) => self.handshake.observe(time.as_secs_f64()),
            News::Reset => self.resets.inc(),
            News::Unanswered => self.unanswered.inc(),
            News::Retransmits(segments) => self.retransmits.inc_by(segments),
            News::Mismatch => self.mismatches.inc(),
            News::Translation => {
                let nat = &flow.nat;
                self.nat
                    .with_label_values(&[
                        names::nat_kind(nat.kind),
                        names::nat_cause(nat.cause),
                        names::expected(nat.expected),
                    ])
                    .inc();
            }
            News::Service => self.count_service(flow, now),
        }
    }

    pub(super) fn know_services(&mut self, inventory: Arc<ArcSwap<Inventory>>) {
        self.inventory = Some(inventory);
    }

    /// Probes are no connections of clients. The policy of a service is not part of a flow: it is
    /// the inventory's to tell, and empty where there is none.
    fn count_service(&mut self, flow: &Flow, now: Instant) {
        let Some(service) = &flow.destination_service else {
            return;
        };
        if flow.class == Class::LbProbe {
            return;
        }
        let inventory = self.inventory.as_ref().map(|shared| shared.load());
        let policy = inventory
            .and_then(|inventory| services::policy(inventory.service_named(service)?))
            .unwrap_or_default();
        let lost = matches!(flow.nat.kind, NatKind::Snat | NatKind::Both)
            && flow.nat.translated.source.ip() != flow.tuple.source.ip();
        let client_ip = if lost { "lost" } else { "kept" };
        let labels = [&service.namespace, &service.name, policy, client_ip];
        self.services.add(&labels, 1, now);
    }
}
