//! Counters that show what another holds.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::IntCounterVec;

use super::room::{OTHER, Room};

/// A counter by the absolute value of its source.
pub(super) struct Mirror {
    counters: IntCounterVec,
    sources: Mutex<Sources>,
}

struct Sources {
    last: HashMap<Vec<String>, u64>,
    room: Room,
}

impl Mirror {
    pub(super) fn new(counters: IntCounterVec, room: Room) -> Self {
        let last = HashMap::new();
        Self {
            counters,
            sources: Mutex::new(Sources { last, room }),
        }
    }

    /// Takes over an absolute value. A smaller one than before means that the source began
    /// anew: all of it is new.
    pub(super) fn set(&self, labels: &[&str], value: u64) {
        self.take(labels, value, false);
    }

    /// As [`Mirror::set`] for a source that does not begin anew: a smaller value is an early one.
    pub(super) fn raise(&self, labels: &[&str], value: u64) {
        self.take(labels, value, true);
    }

    fn take(&self, labels: &[&str], value: u64, grows: bool) {
        let mut sources = self.sources();
        let Sources { last, room } = &mut *sources;
        let key = labels.iter().map(|label| (*label).to_owned()).collect();
        let last = last.entry(key).or_default();
        let value = if grows { value.max(*last) } else { value };
        let more = if value >= *last { value - *last } else { value };
        *last = value;
        if room.take(labels, Instant::now()) {
            self.counters.with_label_values(labels).inc_by(more);
        } else if more > 0 {
            room.limit();
            let other = vec![OTHER; labels.len()];
            self.counters.with_label_values(&other).inc_by(more);
        }
    }

    /// Drops the series whose first label is this.
    pub(super) fn forget(&self, first: &str) {
        let mut sources = self.sources();
        let Sources { last, room } = &mut *sources;
        last.retain(|labels, _| {
            let goes = labels.first().is_some_and(|label| label == first);
            if goes {
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                room.give_up(&labels);
                // A series that is not there has nothing to drop.
                let _ = self.counters.remove_label_values(&labels);
            }
            !goes
        });
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        // A panic in between leaves whole numbers behind.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
