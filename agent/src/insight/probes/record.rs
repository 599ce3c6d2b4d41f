//! What is remembered of one target: when it was asked, and how that ended.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::outcome::Outcome;
use crate::flow::{ProbeResult, ProbeSpec};

/// Gaps from which the interval is taken: the newest.
const GAPS: usize = 32;

/// A gap so many times the interval is one in which probes are missing.
const MISSING: u32 = 2;

/// Probes are absent when none came for so many intervals…
const ABSENT: u32 = 3;
/// …and at least so long, for probers are not punctual to the second.
const ABSENT_LEAST: Duration = Duration::from_secs(2);

/// Whether probes arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// They do.
    Arriving,
    /// They did, and have stopped.
    Absent,
    /// One should come by the API, and none ever has.
    NeverSeen,
}

impl Presence {
    /// The word in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arriving => "arriving",
            Self::Absent => "absent",
            Self::NeverSeen => "never-seen",
        }
    }
}

/// The newest end of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// How it ended.
    pub outcome: Outcome,
    /// When, as `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// When, by the clock of then.
    pub at: SystemTime,
}

/// One target's history.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// What the pod's spec says, of a kubelet's probe.
    pub spec: Option<ProbeSpec>,
    /// Words of the way it is asked: `http`, `tcp`, `grpc`, `https`.
    pub protocol: &'static str,
    /// The path of HTTP probes.
    pub path: Option<String>,
    /// Ends by [`ProbeResult::ALL`].
    pub results: [u64; 4],
    /// The newest end.
    pub last: Option<Last>,
    /// The newest end whose result is known: an answer that was not captured changes no verdict.
    pub known: Option<Last>,
    /// Gaps in which probes were missing.
    pub missing: u64,
    /// First packet of the newest probe, `CLOCK_MONOTONIC` nanoseconds; 0 for none.
    pub seen_ns: u64,
    /// The same by the clock of then.
    pub seen: Option<SystemTime>,
    /// Whether the absence was told.
    pub told_absent: bool,
    gaps: VecDeque<u64>,
}

impl Record {
    /// A probe came.
    pub fn arrived(&mut self, started_ns: u64, at: SystemTime) {
        if started_ns <= self.seen_ns {
            return;
        }
        if self.seen_ns != 0 {
            let gap = started_ns - self.seen_ns;
            let usual = self.interval();
            if usual.is_some_and(|usual| gap > nanos(usual * MISSING)) {
                self.missing += 1;
            }
            if self.gaps.len() == GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back(gap);
        }
        self.seen_ns = started_ns;
        self.seen = Some(at);
    }

    /// A probe ended.
    pub fn ended(&mut self, last: Last) {
        for (result, count) in ProbeResult::ALL.into_iter().zip(&mut self.results) {
            *count += u64::from(result == last.outcome.result);
        }
        self.last = Some(last);
        if last.outcome.result != ProbeResult::Unknown {
            self.known = Some(last);
        }
    }

    /// Median of the gaps between probes; of three and more, for one gap may be any.
    pub fn measured(&self) -> Option<Duration> {
        let mut gaps: Vec<u64> = self.gaps.iter().copied().collect();
        if gaps.len() < 2 {
            return None;
        }
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied().map(Duration::from_nanos)
    }

    /// How often it is asked: as measured, else as the spec says.
    pub fn interval(&self) -> Option<Duration> {
        self.measured()
            .or_else(|| self.spec.as_ref().map(|spec| spec.period))
    }

    /// Whether probes arrive.
    pub fn presence(&self, now_ns: u64) -> Presence {
        if self.seen_ns == 0 {
            return Presence::NeverSeen;
        }
        let longest = self.spec.as_ref().map(|spec| spec.period);
        let interval = self.interval().max(longest).unwrap_or(ASSUMED);
        let silent = Duration::from_nanos(now_ns.saturating_sub(self.seen_ns));
        if silent > (interval * ABSENT).max(ABSENT_LEAST) {
            Presence::Absent
        } else {
            Presence::Arriving
        }
    }

    /// Share of probes that succeeded, of those whose end is known.
    pub fn success_ratio(&self) -> Option<f64> {
        let [success, failure, timeout, _] = self.results;
        let known = success + failure + timeout;
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        (known > 0).then(|| success as f64 / known as f64)
    }
}

/// What Azure's load balancers take where nothing is configured.
const ASSUMED: Duration = Duration::from_secs(5);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn record(starts: &[u64]) -> Record {
        let mut record = Record::default();
        for start in starts {
            // The time of day jumps to and fro: nothing depends on it.
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(start * 977 % 1009);
            record.arrived(start * SECOND, wall);
        }
        record
    }

    #[test]
    fn the_interval_is_the_median_gap() {
        assert_eq!(record(&[1]).interval(), None);
        assert_eq!(record(&[1, 6]).interval(), None);
        let one_late = record(&[1, 6, 11, 31, 36]);
        assert_eq!(one_late.interval(), Some(Duration::from_secs(5)));
        assert_eq!(one_late.missing, 1);
    }

    #[test]
    fn probes_that_stop_are_absent() {
        let record = record(&[1, 6, 11]);
        assert_eq!(record.presence(20 * SECOND), Presence::Arriving);
        assert_eq!(record.presence(27 * SECOND), Presence::Absent);
        assert_eq!(Record::default().presence(SECOND), Presence::NeverSeen);
    }

    #[test]
    fn a_late_record_of_an_earlier_probe_changes_nothing() {
        let mut record = record(&[1, 6, 11]);
        record.arrived(7 * SECOND, SystemTime::UNIX_EPOCH);
        assert_eq!(record.seen_ns, 11 * SECOND);
        assert_eq!(record.measured(), Some(Duration::from_secs(5)));
    }
}
