//! The order in which the kernel's table gives its records: nearly the same each time, because
//! they lie in the buckets of a hash. So a reading goes along what the last one found, and a record
//! that says the same as then costs nothing but the comparison: most do, on a node with many
//! connections.

use nodescope_ebpf::{HopKey, HopRecord};

use super::store::Store;
use super::tracker::{News, Tracker};

/// What the last reading found, in its order, and the one that is under way.
#[derive(Debug, Default)]
pub(super) struct Order {
    last: Vec<u64>,
    now: Vec<u64>,
    at: usize,
}

impl Order {
    /// Whether the last reading found this at this place, or a little later. Two records have the
    /// same hash once in 2^64 times; then a change is seen with the next one.
    fn has(&mut self, hash: u64) -> bool {
        /// Records that changed or went since, and are passed over.
        const AHEAD: usize = 8;
        let ahead = self.last.get(self.at..).unwrap_or_default().iter();
        let found = ahead.take(AHEAD).position(|one| *one == hash);
        if let Some(skipped) = found {
            self.at += skipped + 1;
        }
        found.is_some()
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

impl Store {
    /// A hash of a record with its key, which no sender can choose.
    fn hash_of(&self, key: &HopKey, record: &HopRecord) -> u64 {
        let counters = (
            record.ab.packets,
            record.ab.bytes,
            record.ba.packets,
            record.ba.bytes,
        );
        let times = (record.first_ns, record.request_ns, record.answer_ns);
        let bytes = [
            record.ab_flags,
            record.ba_flags,
            record.nat,
            record.ab_rst,
            record.ba_rst,
        ];
        let rest = (bytes, record.incarnation, record.extra);
        self.hasher.hash_one((key, counters, times, rest))
    }
}

impl Tracker {
    /// As [`Tracker::news`], of the next record of a reading of the whole table.
    pub fn news_of_next(&mut self, key: &HopKey, record: &HopRecord) -> Option<News> {
        let hash = self.store.hash_of(key, record);
        let news = if self.order.has(hash) {
            None
        } else {
            self.news(key, record)
        };
        // What has no place here yet is news the next time as well.
        let is_new = news.is_some_and(|news| news.record);
        self.order.now.push(if is_new { 0 } else { hash });
        news
    }

    /// The reading is over; `whole` when it came to the end of the table.
    pub fn end_reading(&mut self, whole: bool) {
        self.order.end();
        if whole {
            self.seen_all();
        }
    }
}
