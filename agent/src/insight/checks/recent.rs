//! What the checks remember of the flows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::WINDOW;
use crate::flow::{Event, Flow};

/// Connections kept: those of a busy node for some seconds, or of a quiet one for the whole
/// window. Beyond it the oldest half goes.
const CAPACITY: usize = 8192;

/// A flow, and when it came by `CLOCK_MONOTONIC`: the time of day may jump.
#[derive(Debug)]
struct Kept {
    flow: Arc<Flow>,
    at_ns: u64,
}

/// Evidence for checks. Bounded in number and time.
#[derive(Debug, Default)]
pub struct Recent(Mutex<HashMap<u64, Kept>>);

impl Recent {
    /// Takes in a named flow; `now_ns` is `CLOCK_MONOTONIC`.
    pub fn push(&self, flow: &Arc<Flow>, now_ns: u64) {
        if flow.event == Event::Drop {
            return;
        }
        let kept = Kept {
            flow: Arc::clone(flow),
            at_ns: now_ns,
        };
        let mut flows = self.lock();
        flows.insert(flow.connection, kept);
        if flows.len() > CAPACITY {
            let mut times: Vec<u64> = flows.values().map(|kept| kept.at_ns).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            flows.retain(|_, kept| kept.at_ns > middle);
        }
    }

    /// Those that came within the window, oldest first.
    pub fn flows(&self, now_ns: u64) -> Vec<Arc<Flow>> {
        let window = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        let mut flows = self.lock();
        flows.retain(|_, kept| now_ns.saturating_sub(kept.at_ns) <= window);
        let mut found: Vec<_> = flows.values().map(|kept| Arc::clone(&kept.flow)).collect();
        found.sort_by_key(|flow| (flow.started_ns, flow.connection));
        found
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
