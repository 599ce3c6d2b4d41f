//! Translations: what should happen to a pod's address, what does, and which ports it takes.
//!
//! [`Translations::observe`] is shown every record after naming. It fills in what the
//! configuration says and the cause, and keeps the open connections with their translation.

mod expect;
mod in_force;
mod kept;
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

use kept::{Kept, Names, Pool};

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
    open: HashMap<u64, Kept, ahash::RandomState>,
    names: Pool,
    ports: Ports,
    /// Connections that found the table full.
    left_out: u64,
    in_force: Option<(Arc<Inventory>, ModelKind, Arc<InForce>)>,
}

impl Translations {
    /// Keeps so many connections at most.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            limit,
            open: HashMap::default(),
            names: Pool::default(),
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
        let known = state.open.get(&flow.connection).and_then(|kept| {
            let nat = kept.nat();
            let decided = nat.expected != Expected::Unknown;
            decided.then(|| (nat, kept.names.because.clone()))
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
        let open = state.open.iter();
        let mut all: Vec<_> = open.map(|(id, kept)| kept.translation(*id)).collect();
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
        if let Some(kept) = self.open.get_mut(&flow.connection)
            && kept.nat().translated == flow.nat.translated
        {
            let before = kept.taken();
            kept.update(&flow.nat);
            let after = kept.taken();
            if before != after {
                before.iter().for_each(|taken| self.ports.remove(taken));
                after.iter().for_each(|taken| self.ports.add(taken));
            }
            if kept.names.because != flow.expectation {
                let because = flow.expectation.clone();
                kept.names = self.names.share(kept.names.with(because));
            }
            return;
        }
        self.forget(flow.connection);
        if self.open.len() >= self.limit {
            self.left_out += 1;
            return;
        }
        let names = self.names.share(names(flow));
        let kept = Kept::new(flow.started, &flow.nat, names);
        if let Some(taken) = kept.taken() {
            self.ports.add(&taken);
        }
        self.open.insert(flow.connection, kept);
    }

    fn forget(&mut self, connection: u64) {
        let Some(kept) = self.open.remove(&connection) else {
            return;
        };
        if let Some(taken) = kept.taken() {
            self.ports.remove(&taken);
        }
        // A flood leaves room for many behind.
        if self.open.capacity() > 16 * (self.open.len() + 1024) {
            self.open.shrink_to(2 * self.open.len());
        }
    }
}

fn names(flow: &Flow) -> Names {
    let pod = |identity: &Identity| {
        let name = identity.pod().map(|pod| pod.name.to_string());
        Arc::<str>::from(name.unwrap_or_default())
    };
    let service = flow.destination_service.as_ref().map(ToString::to_string);
    let source = pod(&flow.source);
    let whose = if source.is_empty() {
        Arc::from(flow.tuple.source.ip().to_string())
    } else {
        Arc::clone(&source)
    };
    Names {
        because: flow.expectation.clone(),
        source,
        destination: pod(&flow.destination),
        service: Arc::from(service.unwrap_or_default()),
        pod: whose,
    }
}
