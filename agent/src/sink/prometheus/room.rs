//! Which label values have a series of their own: a bounded number, and for as long as what they
//! name is there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

/// The value of all labels of the series that takes what has no room of its own.
pub(super) const OTHER: &str = "other";

/// In no name, and in no word of the kernel's.
const SEPARATOR: &str = "\0";

/// The series of one metric.
pub(super) struct Room {
    /// Label values, and when something was last said of them.
    known: HashMap<Box<str>, Instant>,
    most: usize,
    limited: IntCounter,
}

impl Room {
    /// Room for `most` series; `limited` counts what found none.
    pub(super) fn new(most: usize, limited: IntCounter) -> Self {
        Self {
            known: HashMap::new(),
            most,
            limited,
        }
    }

    /// Whether these label values have a series of their own; gives them one while there is room.
    pub(super) fn take(&mut self, labels: &[&str], now: Instant) -> bool {
        let key = labels.join(SEPARATOR);
        if let Some(last) = self.known.get_mut(key.as_str()) {
            *last = now;
            return true;
        }
        let is_room = self.known.len() < self.most;
        if is_room {
            self.known.insert(key.into(), now);
        }
        is_room
    }

    /// Counts something that went to the series for the rest.
    pub(super) fn limit(&self) {
        self.limited.inc();
    }

    /// Gives up one series.
    pub(super) fn give_up(&mut self, labels: &[&str]) {
        self.known.remove(labels.join(SEPARATOR).as_str());
    }

    /// Gives up series of which nothing was said for `age`, and whose labels do not name anything
    /// that is there; tells each.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        age: Duration,
        is_there: impl Fn(&[&str]) -> bool,
        mut gone: impl FnMut(&[&str]),
    ) {
        self.known.retain(|key, last| {
            if now.saturating_duration_since(*last) < age {
                return true;
            }
            let labels: Vec<_> = key.split(SEPARATOR).collect();
            let stays = is_there(&labels);
            if !stays {
                gone(&labels);
            }
            stays
        });
    }
}
