//! Translations: what should happen to a pod's address, what does, and which ports it takes.
//!
//! [`Translations::observe`] is shown every record after naming. It fills in what the
//! configuration says and the cause, and keeps the open connections with their translation.

mod expect;
mod in_force;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::cluster::{Inventory, Local};
use crate::flow::{Event, Expected, Flow, Identity, Nat};
use crate::node::ModelKind;

pub use expect::{Expectation, expect};
pub use in_force::InForce;
pub use ports::{Destination, InUse, Ports};

use ports::Use;

/// One open connection and its translation.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    /// Stable id of the connection on this node.
    pub connection: u64,
    /// When it was first seen.
    pub started: SystemTime,
    /// Before, after, cause, what the configuration says.
    pub nat: Nat,
    /// What the expectation rests on.
    pub because: Option<Arc<str>>,
    /// Initiator: `namespace/name` of a pod, else empty.
    pub source: Arc<str>,
    /// Final destination: the same.
    pub destination: Arc<str>,
    /// Service that it was asked for as, `namespace/name`, else empty.
    pub service: Arc<str>,
}

/// The open connections whose translation is known. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Translations(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limit: usize,
    open: HashMap<u64, Entry>,
    ports: Ports,
    /// Connections that found the table full.
    left_out: u64,
    in_force: Option<(Arc<Inventory>, ModelKind, Arc<InForce>)>,
}

#[derive(Debug)]
struct Entry {
    translation: Translation,
    taken: Option<Use>,
}

impl Translations {
    /// Keeps so many connections at most.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            limit,
            open: HashMap::new(),
            ports: Ports::default(),
            left_out: 0,
            in_force: None,
        })))
    }

    /// Fills `flow.nat.expected`, `flow.nat.cause` and `flow.expectation`, and keeps track of the
    /// connection. `flow` has its names already.
    pub fn observe(
        &self,
        flow: &mut Flow,
        inventory: &Arc<Inventory>,
        local: &Local,
        model: ModelKind,
    ) {
        let mut state = self.state();
        let in_force = state.in_force(inventory, model);
        // A connection is held to the configuration that it was opened under: conntrack keeps
        // its translation when the rules change.
        let known = state.open.get(&flow.connection).and_then(|entry| {
            let decided = entry.translation.nat.expected != Expected::Unknown;
            decided.then(|| {
                let nat = entry.translation.nat;
                (nat, entry.translation.because.clone())
            })
        });
        match known {
            Some((nat, because)) if nat.translated == flow.nat.translated => {
                flow.nat.expected = nat.expected;
                flow.nat.cause = nat.cause;
                flow.expectation = because;
            }
            _ => {
                if let Some(found) = expect(flow, inventory, local, &in_force) {
                    flow.nat.expected = found.expected;
                    flow.nat.cause = expect::cause(flow, &found, local);
                    flow.expectation = Some(Arc::from(found.because.as_str()));
                }
            }
        }
        state.track(flow);
    }

    /// The open connections of which conntrack's entry was seen, oldest first.
    pub fn open(&self) -> Vec<Translation> {
        let state = self.state();
        let entries = state.open.values().map(|entry| &entry.translation);
        let mut all: Vec<_> = entries.cloned().collect();
        all.sort_by_key(|one| (one.started, one.connection));
        all
    }

    /// Source ports in use towards each destination.
    pub fn ports(&self) -> Vec<InUse> {
        self.state().ports.in_use()
    }

    /// Whether there may be open connections that are not in [`Translations::open`].
    pub fn is_full(&self) -> bool {
        let state = self.state();
        state.open.len() >= state.limit
    }

    /// Connections that are not in [`Translations::open`] because there were too many.
    pub fn left_out(&self) -> u64 {
        self.state().left_out
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each record is taken in whole; a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn in_force(&mut self, inventory: &Arc<Inventory>, model: ModelKind) -> Arc<InForce> {
        if let Some((of, for_model, in_force)) = &self.in_force
            && Arc::ptr_eq(of, inventory)
            && *for_model == model
        {
            return Arc::clone(in_force);
        }
        let in_force = Arc::new(InForce::new(inventory, model));
        self.in_force = Some((Arc::clone(inventory), model, Arc::clone(&in_force)));
        in_force
    }

    fn track(&mut self, flow: &Flow) {
        if flow.event == Event::Close {
            self.forget(flow.connection);
            return;
        }
        if flow.event == Event::Drop || flow.nat.source.is_none() {
            return;
        }
        let same = self.open.get_mut(&flow.connection).is_some_and(|entry| {
            let kept = entry.translation.nat.translated == flow.nat.translated;
            if kept {
                entry.translation.nat = flow.nat;
                entry.translation.because.clone_from(&flow.expectation);
            }
            kept
        });
        if same {
            return;
        }
        self.forget(flow.connection);
        if self.open.len() >= self.limit {
            self.left_out += 1;
            return;
        }
        let translation = translation(flow);
        let pod = if translation.source.is_empty() {
            Arc::from(flow.tuple.source.ip().to_string())
        } else {
            Arc::clone(&translation.source)
        };
        let taken = Use::of(&flow.nat, &pod);
        if let Some(taken) = &taken {
            self.ports.add(taken);
        }
        self.open
            .insert(flow.connection, Entry { translation, taken });
    }

    fn forget(&mut self, connection: u64) {
        if let Some(entry) = self.open.remove(&connection)
            && let Some(taken) = entry.taken
        {
            self.ports.remove(&taken);
        }
    }
}

fn translation(flow: &Flow) -> Translation {
    let pod = |identity: &Identity| {
        let name = identity.pod().map(|pod| pod.name.to_string());
        Arc::from(name.unwrap_or_default())
    };
    let service = flow.destination_service.as_ref().map(ToString::to_string);
    Translation {
        connection: flow.connection,
        started: flow.started,
        nat: flow.nat,
        because: flow.expectation.clone(),
        source: pod(&flow.source),
        destination: pod(&flow.destination),
        service: Arc::from(service.unwrap_or_default()),
    }
}
