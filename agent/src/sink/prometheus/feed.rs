//! What the agent knows of itself, into its metrics.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Metrics, SelfMetrics};
use crate::cluster::{Inventory, WatchErrors};
use crate::engine::{HookStatus, Status};
use crate::flow::Direction;
use crate::insight::checks::Conntrack;
use crate::insight::nat::Translations;
use crate::sink::log::FlowLog;

/// Where the values come from.
pub struct Sources {
    /// The engine.
    pub statuses: watch::Receiver<Arc<Status>>,
    /// The cluster.
    pub inventory: Arc<ArcSwap<Inventory>>,
    /// Its failures.
    pub errors: Arc<WatchErrors>,
    /// Open connections with their translation.
    pub translations: Translations,
    /// The flow log, where there is one.
    pub log: Option<FlowLog>,
}

/// Keeps the agent's own metrics up to date, until the engine ends.
pub async fn feed(metrics: Arc<Metrics>, mut sources: Sources) {
    let mut interfaces = Interfaces::default();
    while sources.statuses.changed().await.is_ok() {
        let status = sources.statuses.borrow_and_update().clone();
        let own = metrics.own();
        interfaces.follow(own, &status, metrics.expiry());
        engine(own, &status);
        let inventory = sources.inventory.load();
        for (kind, count) in inventory.counts() {
            own.set_kube_objects(kind, count);
        }
        for (kind, count) in sources.errors.counts() {
            own.set_kube_watch_errors(kind, count);
        }
        let ports = sources.translations.ports().into_iter();
        own.set_snat_ports(ports.map(|one| (one.destination.to_string(), one.ports as u64)));
        // Without connection tracking the metrics stay at zero; the check says why.
        if let Ok(table) = Conntrack::read() {
            own.set_conntrack(table.entries, table.limit);
        }
        if let Some(log) = &sources.log {
            own.set_events_lost("flow_log", log.lost());
        }
        metrics.expire(&inventory, Instant::now());
    }
}

/// The interfaces whose hooks have series.
#[derive(Default)]
struct Interfaces {
    here: HashSet<(Arc<str>, u32)>,
    gone: HashMap<Arc<str>, Instant>,
}

impl Interfaces {
    /// Has the series of one that went end after `expiry`: the last packets are to be read. One
    /// of the same name and another index counts on there, anew.
    fn follow(&mut self, own: &SelfMetrics, status: &Status, expiry: Duration) {
        let now = Instant::now();
        let here: HashSet<_> = status
            .interfaces
            .iter()
            .map(|one| (Arc::clone(&one.name), one.ifindex))
            .collect();
        for (name, _) in self.here.difference(&here) {
            own.restart_interface(name);
            self.gone.insert(Arc::clone(name), now);
        }
        for (name, _) in &here {
            self.gone.remove(name);
        }
        self.gone.retain(|name, since| {
            let stays = now.saturating_duration_since(*since) < expiry;
            if !stays {
                own.forget_interface(name);
            }
            stays
        });
        self.here = here;
    }
}

fn engine(own: &SelfMetrics, status: &Status) {
    // Both of an interface's hooks are there, or neither.
    own.set_attached_hooks(status.interfaces.iter().map(|one| {
        (
            &*one.name,
            one.role,
            if one.attached.is_ok() { 2 } else { 0 },
        )
    }));
    for one in &status.interfaces {
        hook(own, &one.name, Direction::Ingress, &one.ingress);
        hook(own, &one.name, Direction::Egress, &one.egress);
    }
    for (reason, counts) in &status.unplaced {
        own.set_hook_unattributed("other", Direction::Ingress, reason, *counts);
    }
    own.set_flow_table(status.table_entries, status.table_limit);
    for (kind, lost) in &status.events_lost {
        own.set_events_lost(kind, *lost);
    }
    for (reason, packets) in &status.drops.unplaced {
        own.set_drops_unplaced(reason, *packets);
    }
    for (kind, packets) in &status.drops.ignored {
        own.set_freed(kind, *packets);
    }
    own.set_given_up(status.given_up.records, status.given_up.connections);
    own.set_programs(&status.programs);
    for drain in &status.drains {
        own.observe_drain(*drain);
    }
}

fn hook(own: &SelfMetrics, interface: &str, direction: Direction, hook: &HookStatus) {
    own.set_hook(interface, direction, hook.seen(), hook.offload);
    for (reason, counts) in &hook.unattributed {
        own.set_hook_unattributed(interface, direction, reason, *counts);
    }
}
