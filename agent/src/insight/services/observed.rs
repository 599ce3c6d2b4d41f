//! What one connection to a service shows, and what many add up to.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::cluster::Service;
use crate::flow::{Class, Event, Flow, Identity, NatKind};

/// A connection counts as unanswered from here on: its SYN was sent twice more by then
/// (RFC 6298: after 1 s and 2 s more).
const PATIENCE: Duration = Duration::from_secs(3);

/// Lines of evidence kept for a service.
const EVIDENCE: usize = 4;

/// What became of the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The backend saw it.
    Kept,
    /// The backend saw another one.
    Lost,
}

/// What a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A client outside of the cluster, by node port or load balancer.
    External {
        /// Its address.
        client: Client,
        /// The backend is on another node.
        second_hop: bool,
    },
    /// A pod or node to the cluster IP.
    InCluster,
    /// A pod or node to an address of the load balancer, which it never crossed.
    InClusterVip,
    /// It ended untranslated: no backend was chosen.
    NoBackend,
}

/// What a connection to a service shows on `node`. `None` for health probes, and for what an
/// earlier node has translated already.
pub fn seen(flow: &Flow, service: Option<&Service>, node: &str) -> Option<Seen> {
    if matches!(flow.class, Class::LbProbe | Class::KubeletProbe) {
        return None;
    }
    let to = flow.tuple.destination.ip();
    match flow.nat.kind {
        // Told by a hook, or nothing is known.
        NatKind::None | NatKind::Snat => {
            return (flow.nat.source.is_some() || flow.reply.total.packets == 0)
                .then_some(Seen::NoBackend);
        }
        NatKind::Dnat | NatKind::Both => {}
    }
    match &flow.source {
        Identity::World | Identity::Platform => {
            let lost = flow.nat.translated.source.ip() != flow.tuple.source.ip();
            let elsewhere = flow
                .destination
                .pod()
                .is_some_and(|pod| !pod.node.is_empty() && *pod.node != *node);
            Some(Seen::External {
                client: if lost { Client::Lost } else { Client::Kept },
                second_hop: elsewhere,
            })
        }
        _ if service.is_some_and(|service| service.external_ips.contains(&to)) => {
            Some(Seen::InClusterVip)
        }
        _ => Some(Seen::InCluster),
    }
}

/// Connections to a service, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// From outside, address kept.
    pub external_kept: u64,
    /// From outside, address lost.
    pub external_lost: u64,
    /// From outside, backend on another node.
    pub second_hop: u64,
    /// Of those, with the client's address kept: the answer would take another way back.
    pub second_hop_kept: u64,
    /// Of the second hops: answered.
    pub second_hop_answered: u64,
    /// From inside, to a cluster IP.
    pub in_cluster: u64,
    /// From inside, to an address of the load balancer.
    pub in_cluster_vip: u64,
    /// Without a backend.
    pub no_backend: u64,
    /// The newest connections in words, newest first.
    pub evidence: VecDeque<String>,
}

impl Observed {
    pub(super) fn add(&mut self, seen: Seen, flow: &Flow) {
        match seen {
            Seen::External { client, second_hop } => {
                match client {
                    Client::Kept => self.external_kept += 1,
                    Client::Lost => self.external_lost += 1,
                }
                if second_hop {
                    self.second_hop += 1;
                    self.second_hop_kept += u64::from(client == Client::Kept);
                    self.second_hop_answered += u64::from(flow.reply.total.packets > 0);
                }
            }
            Seen::InCluster => self.in_cluster += 1,
            Seen::InClusterVip => self.in_cluster_vip += 1,
            Seen::NoBackend => self.no_backend += 1,
        }
        self.evidence.push_front(words(seen, flow));
        self.evidence.truncate(EVIDENCE);
    }

    /// Connections from outside.
    pub fn external(&self) -> u64 {
        self.external_kept + self.external_lost
    }
}

fn words(seen: Seen, flow: &Flow) -> String {
    let (from, to) = (flow.tuple.source, flow.tuple.destination);
    let (backend, far) = (flow.nat.translated.destination, flow.nat.translated.source);
    match seen {
        Seen::External { client, second_hop } => {
            let fate = match client {
                Client::Kept => "sees the client".to_owned(),
                Client::Lost => format!("sees {far}"),
            };
            let place = if second_hop { " on another node" } else { "" };
            format!("{from} -> {to}: backend {backend}{place} {fate}")
        }
        Seen::InCluster => format!("{from} -> {to}: backend {backend}, from inside the cluster"),
        Seen::InClusterVip => format!(
            "{from} -> {to}: backend {backend}, translated on this node, not across the load \
             balancer"
        ),
        Seen::NoBackend => format!("{from} -> {to}: no backend was chosen"),
    }
}

/// Which connections are counted, so that each is once.
#[derive(Debug, Default)]
pub(super) struct Counted(HashSet<u64>);

impl Counted {
    /// Whether this record is the first that shows what became of its connection.
    pub(super) fn is_news(&mut self, flow: &Flow) -> bool {
        if flow.event == Event::Drop {
            return false;
        }
        let closing = flow.event == Event::Close;
        let translated = flow.nat.source.is_some() && flow.nat.kind != NatKind::None;
        // With an answer, or without one for long, it is known as well whether a second hop was
        // answered.
        let waited = flow.time.duration_since(flow.started).unwrap_or_default() >= PATIENCE;
        let told = closing || (translated && (waited || flow.reply.total.packets > 0));
        if !told {
            return false;
        }
        let known = self.0.contains(&flow.connection);
        if closing {
            self.0.remove(&flow.connection);
        } else if !known {
            self.0.insert(flow.connection);
        }
        !known
    }
}
