//! What the agent knows of itself, into its metrics.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Metrics, SelfMetrics};
use crate::cluster::{Inventory, WatchErrors};
use crate::engine::{HookStatus, Status};
use crate::flow::Direction;
use crate::insight::checks::Conntrack;
use crate::insight::nat::Translations;

/// Records that a sink could not pass on since the start: its name as a kind, and how to ask.
pub type Lost = (&'static str, Box<dyn Fn() -> u64 + Send>);

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
    /// What sinks could not pass on.
    pub lost: Vec<Lost>,
}

/// Keeps the agent's own metrics up to date, until the engine ends.
pub async fn feed(metrics: Arc<Metrics>, mut sources: Sources) {
    let mut interfaces = HashSet::new();
    while sources.statuses.changed().await.is_ok() {
        let status = sources.statuses.borrow_and_update().clone();
        let own = metrics.own();
        follow(own, &status, &mut interfaces);
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
        for (kind, lost) in &sources.lost {
            own.set_events_lost(kind, lost());
        }
        metrics.expire(&inventory, Instant::now());
    }
}

/// Drops the series of interfaces that went; one of the same name and another index counts anew.
fn follow(own: &SelfMetrics, status: &Status, known: &mut HashSet<(Arc<str>, u32)>) {
    let here: HashSet<_> = status
        .interfaces
        .iter()
        .map(|one| (Arc::clone(&one.name), one.ifindex))
        .collect();
    for (gone, _) in known.difference(&here) {
        own.forget_interface(gone);
    }
    *known = here;
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
    own.set_given_up(status.given_up);
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
