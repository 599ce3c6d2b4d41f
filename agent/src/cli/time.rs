//! Points in time as people give them: RFC 3339, or how long ago.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};

/// A point in time; `5m` is five minutes ago.
pub fn parse(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = text.parse::<prost_types::Timestamp>() {
        return SystemTime::try_from(time).map_err(|error| error.to_string());
    }
    let wanted = "give an RFC 3339 time (2030-01-02T03:04:05Z) or how long ago (5m, 1h30m)";
    let ago = text
        .parse::<SignedDuration>()
        .map_err(|_| wanted.to_owned())?;
    let ago = Duration::try_from(ago).map_err(|_| wanted.to_owned())?;
    SystemTime::now()
        .checked_sub(ago)
        .ok_or_else(|| wanted.to_owned())
}

/// `15:04:05.678` in UTC.
pub fn short(time: Option<&prost_types::Timestamp>) -> String {
    format(time, "%H:%M:%S%.3f")
}

/// `2030-01-02T15:04:05.678Z`.
pub fn long(time: Option<&prost_types::Timestamp>) -> String {
    format(time, "%Y-%m-%dT%H:%M:%S%.3fZ")
}

fn format(time: Option<&prost_types::Timestamp>, how: &str) -> String {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
        .map_or_else(|| "-".to_owned(), |time| time.strftime(how).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_and_relative_times() -> Result<(), String> {
        let absolute = parse("1970-01-01T00:01:00Z")?;
        assert_eq!(absolute, SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        let then = parse("1h30m")?;
        let ago = SystemTime::now()
            .duration_since(then)
            .map_err(|error| error.to_string())?;
        assert!((5400..5410).contains(&ago.as_secs()), "{ago:?}");
        assert!(parse("yesterday").is_err());
        assert!(parse("-5m").is_err());
        Ok(())
    }

    #[test]
    fn printed_in_utc_with_milliseconds() {
        let time = prost_types::Timestamp {
            seconds: 3661,
            nanos: 5_000_000,
        };
        assert_eq!(short(Some(&time)), "01:01:01.005");
        assert_eq!(long(Some(&time)), "1970-01-01T01:01:01.005Z");
        assert_eq!(short(None), "-");
    }
}
