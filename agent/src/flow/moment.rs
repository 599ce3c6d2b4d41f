//! The kernel's clock and the time of day.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Where the kernel tells how far the clocks of this process are from the machine's.
const OFFSETS: &str = "/proc/self/timens_offsets";

/// A moment on both clocks, to turn the kernel's monotonic times into times of day. It is taken
/// anew for each reading, so a time of day that is set meanwhile is right from then on.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Time of day.
    pub wall: SystemTime,
    /// The machine's `CLOCK_MONOTONIC` nanoseconds, by which programs in the kernel tell time.
    pub monotonic_ns: u64,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let own = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
        Self {
            wall: SystemTime::now(),
            monotonic_ns: u64::try_from(own - ahead()).unwrap_or(0),
        }
    }

    /// The time of day of a monotonic time.
    pub fn wall_of(&self, monotonic_ns: u64) -> SystemTime {
        let ago = Duration::from_nanos(self.monotonic_ns.saturating_sub(monotonic_ns));
        self.wall.checked_sub(ago).unwrap_or(self.wall)
    }
}

/// Nanoseconds that the own `CLOCK_MONOTONIC` is ahead of the machine's: 0 but in a time namespace
/// (time_namespaces(7)), whose offsets no longer change once it has a process.
fn ahead() -> i128 {
    static AHEAD: OnceLock<i128> = OnceLock::new();
    *AHEAD.get_or_init(|| {
        // Kernels without time namespaces have no such file.
        std::fs::read_to_string(OFFSETS).map_or(0, |text| monotonic(&text).unwrap_or(0))
    })
}

/// The offset of the monotonic clock: its name, seconds, nanoseconds.
fn monotonic(text: &str) -> Option<i128> {
    let line = text.lines().find(|line| line.starts_with("monotonic"))?;
    let mut numbers = line.split_whitespace().skip(1).map(str::parse::<i128>);
    let (seconds, nanos) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read() {
        let text = "monotonic      -86400 500000000\nboottime            0         0\n";
        assert_eq!(monotonic(text), Some(-86_399_500_000_000));
        assert_eq!(monotonic("boottime 1 0\n"), None);
        assert_eq!(monotonic("monotonic\n"), None);
    }

    #[test]
    fn a_time_after_now_is_now() {
        let now = Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
            monotonic_ns: 5_000_000_000,
        };
        let second = Duration::from_secs(1);
        assert_eq!(now.wall_of(4_000_000_000), now.wall - second);
        assert_eq!(now.wall_of(6_000_000_000), now.wall);
    }
}
