//! How long to wait before the API is asked again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kube::core::Status;
use kube::runtime::watcher;
use tokio::time::Instant;

/// Pauses after a failed attempt: the first, and the longest. Jitter adds up to as much again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// After so long without a failure the pauses begin short again.
const CALM: Duration = Duration::from_secs(30);
/// A server that asks for a longer pause is not taken at its word: what stands in between may ask
/// for a day.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// The pauses of one watch, longer and longer.
pub(super) struct Pauses {
    next: ExponentialBackoff,
    failed_at: Option<Instant>,
}

impl Pauses {
    /// Beginning with the shortest.
    pub(super) fn new() -> Self {
        Self {
            next: growing(),
            failed_at: None,
        }
    }

    /// The pause after a failure that comes now. What the server asked for is added to, so that
    /// those whom it told the same do not come back at once.
    pub(super) fn after(&mut self, error: &watcher::Error, now: Instant) -> Duration {
        if self.failed_at.is_some_and(|at| at + CALM < now) {
            self.next = growing();
        }
        let pause = self.next.next().unwrap_or(PAUSES.1);
        let asked = asked(error).min(LONGEST_ASKED);
        self.failed_at = Some(now + asked + pause);
        asked + pause
    }
}

fn growing() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_jitter()
        .without_max_times()
        .build()
}

/// How long the server wants not to be asked.
fn asked(error: &watcher::Error) -> Duration {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed};
    let status: Option<&Status> = match error {
        WatchError(status) => Some(status),
        InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | WatchFailed(error) => {
            match error {
                kube::Error::Api(status) => Some(status),
                _ => None,
            }
        }
        NoResourceVersion => None,
    };
    let details = status.and_then(|status| status.details.as_ref());
    details.map_or(Duration::ZERO, |details| {
        Duration::from_secs(details.retry_after_seconds.into())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failure(seconds: u32) -> watcher::Error {
        let status = serde_json::from_value(json!({
            "code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": seconds}
        }));
        let Ok::<Status, _>(status) = status else {
            panic!("no status");
        };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    /// The pauses of a server that fails for so long.
    fn storm(lasting: Duration) -> Vec<Duration> {
        let (mut pauses, error) = (Pauses::new(), failure(0));
        let start = Instant::now();
        let (mut now, mut all) = (start, Vec::new());
        while now < start + lasting {
            let pause = pauses.after(&error, now);
            now += pause;
            all.push(pause);
        }
        all
    }

    #[test]
    fn an_hour_of_failures_is_a_few_hundred_requests() {
        let (one, other) = (
            storm(Duration::from_secs(3600)),
            storm(Duration::from_secs(3600)),
        );
        for pauses in [&one, &other] {
            let requests = pauses.len();
            assert!((180..370).contains(&requests), "{requests} requests");
            assert!(pauses.iter().all(|pause| *pause >= PAUSES.0));
            assert!(pauses.iter().all(|pause| *pause <= 2 * PAUSES.1));
        }
        // No two agents ask in step.
        assert_ne!(one, other);
    }

    #[test]
    fn what_the_server_asks_for_is_waited_and_no_day() {
        let (mut pauses, start) = (Pauses::new(), Instant::now());
        for seconds in [1, 7, 120] {
            let pause = pauses.after(&failure(seconds), start);
            let told = Duration::from_secs(seconds.into());
            assert!(pause >= told && pause <= told + 2 * PAUSES.1, "{pause:?}");
        }
        let pause = pauses.after(&failure(86_400), start);
        assert!(pause <= LONGEST_ASKED + 2 * PAUSES.1, "{pause:?}");
    }

    #[test]
    fn pauses_begin_short_again_after_a_calm() {
        let (mut pauses, mut now) = (Pauses::new(), Instant::now());
        for _ in 0..8 {
            now += pauses.after(&failure(0), now);
        }
        assert!(pauses.after(&failure(0), now) >= PAUSES.1);
        now += 2 * PAUSES.1 + CALM + Duration::from_secs(1);
        assert!(pauses.after(&failure(0), now) <= 2 * PAUSES.0);
    }
}
