//! Counters with labels from the outside world: bounded in number, gone some time after what
//! they name.

use std::time::{Duration, Instant};

use prometheus::IntCounterVec;

use super::room::{OTHER, Room};

/// A counter of which no more than a number of series can come to be.
pub(super) struct Family {
    counters: IntCounterVec,
    room: Room,
}

impl Family {
    pub(super) fn new(counters: IntCounterVec, room: Room) -> Self {
        Self { counters, room }
    }

    /// Adds to the series of these labels, or to the one for the rest.
    pub(super) fn add(&mut self, labels: &[&str], more: u64, now: Instant) {
        if more == 0 {
            return;
        }
        if self.room.take(labels, now) {
            self.counters.with_label_values(labels).inc_by(more);
        } else {
            self.room.limit();
            let other = vec![OTHER; labels.len()];
            self.counters.with_label_values(&other).inc_by(more);
        }
    }

    /// Ends series to which nothing was added for `age` and whose labels name what is not there.
    ///
    /// One that comes back begins at zero with what is new: to Prometheus that is a counter that
    /// was reset, whose whole value is new, and so it is. Were it to go on from where it ended,
    /// or were it ended while there is still something to add, a rate over the gap would be wrong.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        age: Duration,
        is_there: impl Fn(&[&str]) -> bool,
    ) {
        let counters = &self.counters;
        self.room.expire(now, age, is_there, |labels| {
            // A series that is not there has nothing to drop.
            let _ = counters.remove_label_values(labels);
        });
    }
}
