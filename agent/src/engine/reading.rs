//! Reading the kernel's table: what changed once a second, and all of it once in a while.

use std::time::{Duration, Instant};

use nodescope_ebpf::{HopKey, HopRecord};

use super::Engine;
use crate::datapath::Cursor;
use crate::flow::Moment;

/// All records are read this often, whatever the kernel side tells.
const ALL: Duration = Duration::from_secs(10);

/// Reading all records one after the other takes so many times less for each than looking at one,
/// where there are more than a few.
const LOOK: usize = 4;
const FEW: usize = 256;

/// Last records that are remembered until all of the kernel's table has been read.
const CLOSED: usize = 8192;

/// What is to be read next, and room for it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Records that changed, or may have.
    keys: Vec<HopKey>,
    /// Room for what one look into the kernel's table gives.
    records: Vec<(HopKey, HopRecord)>,
    /// When all were read last.
    last: Option<Instant>,
    /// Whether all are to be read now.
    all: bool,
    /// New records of which the kernel side could not tell, by then.
    lost: u64,
}

impl Engine {
    /// Looks at single records, because the kernel side told of them: now, and once more with what
    /// changes until the next drain, for this may be too early for all that it will be.
    pub fn poke<'a>(&mut self, keys: impl IntoIterator<Item = &'a HopKey>) {
        let most = self.pressure.most_fresh();
        for key in keys {
            self.look(key, most);
            self.reading.keys.push(*key);
        }
    }

    /// The kernel side told of more records than are looked at one by one.
    pub(super) fn read_all_next(&mut self) {
        self.reading.all = true;
    }

    /// Takes in a record as it is now; false when it has to wait where it is.
    fn look(&mut self, key: &HopKey, most: usize) -> bool {
        if let Some(record) = self.datapath.hop(key)
            && let Some(news) = self.tracker.news(key, &record)
        {
            // After it was read: no end is seen before its beginning.
            return self.meet(key, &record, news, most, Moment::now());
        }
        true
    }

    /// Looks at every record.
    pub fn drain_all(&mut self) {
        self.reading.all = true;
        self.drain();
    }

    /// Looks at every record that changed since the last time; at all of them where that is not
    /// known, or was so for long.
    pub fn drain(&mut self) {
        let start = Instant::now();
        let now = Moment::now();
        let mut keys = std::mem::take(&mut self.reading.keys);
        let told = self.datapath.changes(|key| keys.push(key));
        let complete = told.unwrap_or_else(|error| {
            self.drain.failed("asking what changed", &error);
            false
        });
        let lost = self.datapath.lost_opens();
        let lost_some = std::mem::replace(&mut self.reading.lost, lost) != lost;
        let due = self.reading.last.is_none_or(|last| last.elapsed() >= ALL);
        let all = std::mem::take(&mut self.reading.all)
            || due
            || !complete
            || lost_some
            || self.is_behind()
            || keys.len() > FEW && keys.len() * LOOK >= self.tracker.hops()
            || self.tracker.remembered() > CLOSED;
        if all {
            self.reading.last = Some(start);
            self.read_all();
        } else {
            let most = self.pressure.most();
            let waiting = keys.iter().filter(|key| !self.look(key, most)).count();
            self.pressure.waiting(waiting as u64);
            self.drain.entries = self.tracker.hops() + waiting;
        }
        keys.clear();
        keys.shrink_to(4096);
        self.reading.keys = keys;
        self.resent();
        self.drain.durations.push(start.elapsed());
        self.relieve(now);
        self.save();
    }

    fn read_all(&mut self) {
        let most = self.pressure.most();
        let (mut entries, mut waiting) = (0, 0);
        let mut cursor = Cursor::default();
        let mut records = std::mem::take(&mut self.reading.records);
        let whole = loop {
            match self.datapath.read(&mut cursor, &mut records) {
                Ok(true) => {}
                Ok(false) => break true,
                Err(error) => {
                    self.drain.failed("draining", &error);
                    break false;
                }
            }
            entries += records.len();
            // After these were read, as in `look`.
            let now = Moment::now();
            for (key, record) in &records {
                if let Some(news) = self.tracker.news_of_next(key, record)
                    && !self.meet(key, record, news, most, now)
                {
                    waiting += 1;
                }
            }
        };
        self.reading.records = records;
        self.tracker.end_reading(whole);
        self.pressure.waiting(waiting);
        self.drain.entries = entries;
    }
}
