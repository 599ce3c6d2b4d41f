//! What the checks remember of the flows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::WINDOW;
use crate::flow::{Event, Flow};

/// Connections kept: those of a busy node for some seconds, or of a quiet one for the whole
/// window. Beyond it the oldest half goes.
const CAPACITY: usize = 16_384;

/// Evidence for checks. Bounded in number and time.
#[derive(Debug, Default)]
pub struct Recent(Mutex<HashMap<u64, Arc<Flow>>>);

impl Recent {
    /// Takes in a named flow.
    pub fn push(&self, flow: &Arc<Flow>) {
        if flow.event == Event::Drop {
            return;
        }
        let mut flows = self.lock();
        flows.insert(flow.connection, Arc::clone(flow));
        if flows.len() > CAPACITY {
            let mut times: Vec<SystemTime> = flows.values().map(|flow| flow.time).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            flows.retain(|_, flow| flow.time > middle);
        }
    }

    /// Those with a record within the window, oldest first.
    pub fn flows(&self, now: SystemTime) -> Vec<Arc<Flow>> {
        let mut flows = self.lock();
        // A clock that jumped back makes records of the future: they are kept.
        flows.retain(|_, flow| now.duration_since(flow.time).unwrap_or_default() <= WINDOW);
        let mut found: Vec<_> = flows.values().cloned().collect();
        found.sort_by_key(|flow| (flow.started, flow.connection));
        found
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Flow>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
