//! Changes that come one after the other are waited for together: to wake up for each costs more
//! than the change.

use std::time::Duration;

use tokio::time::Instant;

/// So many in a second are many.
const MANY: u32 = 20;
/// So long is waited for the next of many.
const REST: Duration = Duration::from_millis(100);
/// What came meanwhile is read within this.
const READING: Duration = Duration::from_millis(5);

/// How fast changes come.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the second began in which they are counted.
    since: Instant,
    count: u32,
    /// Whether there were many in the last one.
    many: bool,
    /// Until then they are read as they come.
    reading: Instant,
}

impl Pace {
    /// Of changes that are yet to come.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            many: false,
            reading: now,
        }
    }

    /// One came; how long the next may wait.
    pub(super) fn rest(&mut self, now: Instant) -> Option<Duration> {
        const SECOND: Duration = Duration::from_secs(1);
        let passed = now.saturating_duration_since(self.since);
        if passed >= SECOND {
            self.many = self.count > MANY && passed < 2 * SECOND;
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        if !self.many || now < self.reading {
            return None;
        }
        self.reading = now + REST + READING;
        Some(REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays changes that come so far apart; how often somebody wakes up for them, and the longest
    /// that one waited.
    fn play(apart: Duration, count: u32) -> (u32, Duration) {
        let start = Instant::now();
        let (mut pace, mut awake) = (Pace::new(start), start);
        let (mut wakes, mut longest) = (0, Duration::ZERO);
        for number in 1..=count {
            let came = start + apart * number;
            if came > awake {
                // Nothing was there to be read.
                wakes += 1;
                awake = came;
            }
            longest = longest.max(awake - came);
            awake += pace.rest(awake).unwrap_or_default();
        }
        (wakes, longest)
    }

    #[test]
    fn few_changes_are_read_at_once() {
        let (wakes, longest) = play(Duration::from_millis(60), 100);
        assert_eq!((wakes, longest), (100, Duration::ZERO));
    }

    #[test]
    fn many_are_read_together_and_none_waits_for_long() {
        let (wakes, longest) = play(Duration::from_millis(10), 1000);
        // The first second's hundred, then some ten a second, and as many after rests.
        assert!((100..250).contains(&wakes), "{wakes}");
        assert!(longest <= REST, "{longest:?}");
    }

    #[test]
    fn after_a_pause_changes_are_read_at_once_again() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let rests = |pace: &mut Pace, from: u64, count: u64| {
            let at = |number| start + Duration::from_secs(from) + Duration::from_millis(number);
            let rests = (0..count).filter_map(|number| pace.rest(at(10 * number)));
            rests.count()
        };
        assert!(rests(&mut pace, 0, 300) > 10);
        assert_eq!(rests(&mut pace, 60, 10), 0);
    }
}
