//! What flow records add up to.

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Registry};

use super::connections::{Connections, News};
use super::family::{self, Family};
use super::labels::FlowLabels;
use super::{Error, Options};
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
    pub(super) fn new(
        registry: &Registry,
        options: &Options,
        limited: &IntCounterVec,
    ) -> Result<Self, Error> {
        let labels = options.labels.clone();
        let names: Vec<_> = ["class", "direction"]
            .into_iter()
            .chain(labels.names())
            .collect();
        let family = |name: &str, help: &str, labels: &[&str]| {
            Family::new(registry, name, help, labels, options.max_series, limited)
        };
        let active = IntGaugeVec::new(
            family::opts("connections_active", "Connections that are open."),
            &["class"],
        )?;
        registry.register(Box::new(active.clone()))?;
        let handshake = HistogramOpts::new(
            "tcp_handshake_seconds",
            "Time from SYN to SYN+ACK at the hop nearest to the initiator.",
        );
        let handshake = Histogram::with_opts(
            handshake
                .namespace(family::NAMESPACE)
                .buckets(HANDSHAKE_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(handshake.clone()))?;
        let drop_names: Vec<_> = ["reason", "direction"]
            .into_iter()
            .chain(labels.names())
            .collect();
        Ok(Self {
            drops: family(
                "drops_total",
                "Packets that the kernel dropped on this node, by its reason.",
                &drop_names,
            )?,
            bytes: family("flow_bytes_total", "Bytes of flows.", &names)?,
            packets: family("flow_packets_total", "Packets of flows.", &names)?,
            services: family(
                "service_connections_total",
                "Connections to services, by whether the client's address reached the backend.",
                &["namespace", "service", "policy", "client_ip"],
            )?,
            opened: family::counters(
                registry,
                "connections_opened_total",
                "Connections seen for the first time.",
                &["class"],
            )?,
            active,
            handshake,
            resets: family::counter(
                registry,
                "tcp_resets_total",
                "TCP connections that one side reset or refused.",
            )?,
            unanswered: family::counter(
                registry,
                "tcp_unanswered_total",
                "TCP connections that ended without an answer to the SYN.",
            )?,
            retransmits: family::counter(
                registry,
                "tcp_retransmits_total",
                "TCP segments that sockets of this node sent again.",
            )?,
            nat: family::counters(
                registry,
                "nat_connections_total",
                "Connections by translation, its cause and what the configuration says.",
                &["kind", "cause", "expected"],
            )?,
            mismatches: family::counter(
                registry,
                "snat_mismatch_total",
                "Connections whose initiator was translated or kept against the configuration.",
            )?,
            connections: Connections::default(),
            inventory: None,
            labels,
        })
    }

    pub(super) fn observe(&mut self, flow: &Flow) {
        // Packets that died were counted by the hooks that they passed before.
        if let Some(drop) = &flow.drop {
            let ends = self.labels.values(flow);
            let labels: Vec<_> = [&*drop.reason, names::direction(drop.direction)]
                .into_iter()
                .chain(ends)
                .collect();
            self.drops.add(&labels, flow.forward.delta.packets);
            return;
        }
        let class = names::class(flow.class);
        for (direction, traffic) in [("forward", &flow.forward), ("reply", &flow.reply)] {
            let ends = self.labels.values(flow);
            let labels: Vec<_> = [class, direction].into_iter().chain(ends).collect();
            self.bytes.add(&labels, traffic.delta.bytes);
            self.packets.add(&labels, traffic.delta.packets);
        }
        for news in self.connections.news(flow) {
            self.count(flow, news);
        }
    }

    fn count(&mut self, flow: &Flow, news: News) {
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
            News::Service => self.count_service(flow),
        }
    }

    pub(super) fn know_services(&mut self, inventory: Arc<ArcSwap<Inventory>>) {
        self.inventory = Some(inventory);
    }

    /// Probes are no connections of clients. The policy of a service is not part of a flow: it is
    /// the inventory's to tell, and empty where there is none.
    fn count_service(&mut self, flow: &Flow) {
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
        self.services
            .add(&[&service.namespace, &service.name, policy, client_ip], 1);
    }
}
