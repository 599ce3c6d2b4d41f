//! When more comes than fits: the kernel's table is drained by its fill as well as by time, and
//! the idlest records are taken out before it is full. What they counted stays with their
//! connections.

use std::time::{Duration, Instant};

use super::Engine;
use crate::flow::Moment;

/// How full the kernel's table is, as far as is known between two drains.
#[derive(Debug)]
pub(super) struct Pressure {
    capacity: u64,
    connections: usize,
    /// Records after the last drain, and when that was.
    left: u64,
    drained: Instant,
    /// New records that the kernel side told of since then.
    told: u64,
    /// New records of which it could not tell, at the last drain.
    lost: u64,
    /// Records that found no room here at the last drain and wait in the kernel's table.
    waiting: u64,
    given_up: GivenUp,
}

/// What was given up for want of room, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Records taken out of the kernel's table although their connection was open.
    pub records: u64,
    /// Connections closed although they were not over.
    pub connections: u64,
    /// Records of an earlier agent that had another layout.
    pub layout: u64,
}

impl Pressure {
    /// Of a table that holds `capacity` records, and a node side that holds `connections`.
    pub(super) fn new(capacity: u32, connections: u32) -> Self {
        Self {
            capacity: u64::from(capacity),
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            left: 0,
            drained: Instant::now(),
            told: 0,
            lost: 0,
            waiting: 0,
            given_up: GivenUp::default(),
        }
    }

    /// How many connections are kept.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// How many there may be while some wait for their last record.
    pub(super) fn most(&self) -> usize {
        self.connections + self.connections / 4
    }

    /// The same with those that begin now: what a flood left behind must not hold them up.
    pub(super) fn most_fresh(&self) -> usize {
        self.most() + self.connections / 16
    }

    pub(super) fn waiting(&mut self, records: u64) {
        self.waiting = records;
    }

    pub(super) fn gave_up_connections(&mut self, count: usize) {
        self.given_up.connections += count as u64;
    }

    pub(super) fn given_up(&self) -> GivenUp {
        self.given_up
    }

    /// How many records should be taken out, for what comes in the second after this drain to
    /// find room; and whether they may be ones that are in use.
    fn excess(&mut self, entries: u64, lost: u64) -> (u64, bool) {
        /// A burst shorter than this says nothing of a rate.
        const SHORTEST: Duration = Duration::from_millis(100);
        let took = self.drained.elapsed().max(SHORTEST);
        let came = entries.saturating_sub(self.left);
        let rate = (came as f64 / took.as_secs_f64()) as u64;
        self.drained = Instant::now();
        self.told = 0;
        self.lost = lost;
        self.left = entries;
        let most = self.capacity / 4 * 3;
        let excess = (entries + rate).saturating_sub(most).min(entries);
        (excess, entries > self.capacity / 8 * 7)
    }
}

impl Engine {
    /// The kernel side told of so many new records.
    pub(super) fn told(&mut self, opened: usize) {
        self.pressure.told += opened as u64;
    }

    /// Whether so many records came since the last drain that the next one should not wait.
    pub(super) fn is_pressed(&self) -> bool {
        let lost = self
            .datapath
            .lost_opens()
            .saturating_sub(self.pressure.lost);
        self.pressure.told + lost >= (self.pressure.capacity / 8).max(1)
    }

    /// Whether records wait in the kernel's table.
    pub(super) fn is_behind(&self) -> bool {
        self.pressure.waiting > 0
    }

    /// Whether records wait in the kernel's table for room that there is now.
    pub(super) fn has_room_for_waiting(&self) -> bool {
        self.pressure.waiting > 0 && self.tracker.len() <= self.pressure.connections()
    }

    /// Makes room in the kernel's table, after a drain at `now`.
    pub(super) fn relieve(&mut self, now: Moment) {
        let lost = self.datapath.lost_opens();
        let (excess, hard) = self.pressure.excess(self.drain.entries as u64, lost);
        if excess == 0 {
            return;
        }
        let most = usize::try_from(excess).unwrap_or(usize::MAX);
        // What this very drain saw changing is in use.
        let before = if hard { u64::MAX } else { now.monotonic_ns };
        let idlest = self.tracker.idlest_records(most, before);
        self.retire(&idlest, now);
        let count = idlest.len() as u64;
        self.pressure.left = self.pressure.left.saturating_sub(count);
        self.pressure.given_up.records += count;
        tracing::debug!(
            entries = self.drain.entries,
            records = count,
            "the flow table fills: the idlest records were taken out"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::Pressure;

    #[test]
    fn a_table_with_room_is_left_alone() {
        let mut pressure = Pressure::new(1000, 250);
        assert_eq!(pressure.excess(20, 0), (0, false));
        // 700 more at once are 7000 a second.
        assert_eq!(pressure.excess(720, 0), (720, false));
    }

    #[test]
    fn a_steady_table_is_left_alone_up_to_three_quarters() {
        let mut pressure = Pressure::new(1000, 250);
        pressure.left = 740;
        assert_eq!(pressure.excess(740, 0), (0, false));
        pressure.left = 900;
        assert_eq!(pressure.excess(900, 0), (150, true));
    }
}
