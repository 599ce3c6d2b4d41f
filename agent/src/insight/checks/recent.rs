//! What the checks remember of the flows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::WINDOW;
use super::probes::ProbesSeen;
use crate::flow::{Class, Event, Flow};

/// Connections kept: those of a busy node for some seconds, or of a quiet one for the whole
/// window. Beyond it the oldest half goes.
const CAPACITY: usize = 16_384;

/// Ports whose probes are remembered; a node has one for each service, if that many.
const PROBED_PORTS: usize = 4_096;

/// Evidence for checks. Bounded in number and time.
#[derive(Debug, Default)]
pub struct Recent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest record of each connection of late.
    flows: HashMap<u64, Arc<Flow>>,
    /// Probes by port: remembered for longer, for their absence is what matters.
    probes: BTreeMap<u16, ProbesSeen>,
}

impl Recent {
    /// Takes in a named flow.
    pub fn push(&self, flow: &Arc<Flow>) {
        if flow.event == Event::Drop {
            return;
        }
        let mut state = self.lock();
        let known = state.flows.insert(flow.connection, Arc::clone(flow));
        if flow.class == Class::LbProbe && known.is_none() {
            state.note_probe(flow);
        }
        if state.flows.len() > CAPACITY {
            let mut times: Vec<SystemTime> = state.flows.values().map(|flow| flow.time).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            state.flows.retain(|_, flow| flow.time > middle);
        }
    }

    /// Those with a record within the window, oldest first.
    pub fn flows(&self, now: SystemTime) -> Vec<Arc<Flow>> {
        let mut state = self.lock();
        // A clock that jumped back makes records of the future: they are kept.
        state
            .flows
            .retain(|_, flow| now.duration_since(flow.time).unwrap_or_default() <= WINDOW);
        let mut found: Vec<_> = state.flows.values().cloned().collect();
        found.sort_by_key(|flow| (flow.started, flow.connection));
        found
    }

    /// Load-balancer probes by port, since the agent started.
    pub fn probes(&self) -> Vec<ProbesSeen> {
        self.lock().probes.values().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note_probe(&mut self, flow: &Flow) {
        let port = flow.tuple.destination.port();
        if let Some(seen) = self.probes.get_mut(&port) {
            seen.number = seen.number.saturating_add(1);
            seen.last = seen.last.max(flow.started);
        } else if self.probes.len() < PROBED_PORTS {
            let seen = ProbesSeen {
                port,
                number: 1,
                first: flow.started,
                last: flow.started,
            };
            self.probes.insert(port, seen);
        }
    }
}
