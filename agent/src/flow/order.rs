//! The order in which the kernel's table gives its records: nearly the same each time, because
//! they lie in the buckets of a hash. So the next record is looked for where it was the last time
//! before it is looked up, which saves most of what an unchanged record costs.

use nodescope_ebpf::{HopKey, HopRecord};

use super::store::{At, NONE, Store};
use super::tracker::{News, Tracker};

/// The hops in the order of the last reading, and of the one that is under way.
#[derive(Debug, Default)]
pub(super) struct Order {
    last: Vec<At>,
    now: Vec<At>,
    at: usize,
}

impl Order {
    fn find(&mut self, store: &Store, key: &HopKey) -> Option<At> {
        /// Records that are gone since the last time, and are passed over.
        const AHEAD: usize = 4;
        let ahead = self.last.get(self.at..).unwrap_or_default().iter();
        let mut ahead = ahead.take(AHEAD).copied();
        let found = match ahead.position(|at| store.is_hop(at, key)) {
            Some(skipped) => {
                self.at += skipped + 1;
                self.last.get(self.at - 1).copied()
            }
            None => store.hop(key),
        };
        self.now.push(found.unwrap_or(NONE));
        found
    }

    fn end(&mut self) {
        std::mem::swap(&mut self.last, &mut self.now);
        self.now.clear();
        self.at = 0;
        let room = self.last.len() * 2 + 4096;
        self.last.shrink_to(room);
        self.now.shrink_to(room);
    }
}

impl Tracker {
    /// As [`Tracker::news`], of the next record of a reading of the whole table.
    pub fn news_of_next(&mut self, key: &HopKey, record: &HopRecord) -> Option<News> {
        let known = self.order.find(&self.store, key);
        self.news_of(known, record)
    }

    /// The reading is over; `whole` when it came to the end of the table.
    pub fn end_reading(&mut self, whole: bool) {
        self.order.end();
        if whole {
            self.seen_all();
        }
    }
}
