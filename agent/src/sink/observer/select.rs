//! Which of the kept flows a request asks for: number, first, since, until.

use std::time::SystemTime;

use prost_types::Timestamp;
use tonic::Status;

use crate::sink::proto::observer::{GetFlowsRequest, GetFlowsResponse};

/// The part of a request that is about time and number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// How many; `None` for no limit.
    pub number: Option<u64>,
    /// Count from the oldest.
    pub first: bool,
    /// Stay for what comes.
    pub follow: bool,
    /// Not older than this.
    pub since: Option<SystemTime>,
    /// Not newer than this.
    pub until: Option<SystemTime>,
}

impl Selection {
    /// Reads it from a request.
    ///
    /// # Errors
    /// `InvalidArgument` for `first` with `follow`, and for a time that does not exist.
    pub fn of(request: &GetFlowsRequest) -> Result<Self, Status> {
        if request.first && request.follow {
            return Err(Status::invalid_argument(
                "first and follow exclude each other: leave out one",
            ));
        }
        Ok(Self {
            number: (request.number > 0).then_some(request.number),
            first: request.first,
            follow: request.follow,
            since: time("since", request.since)?,
            until: time("until", request.until)?,
        })
    }

    /// Whether nothing that was kept is wanted, only what comes.
    pub fn live_only(&self) -> bool {
        self.follow && self.number.is_none() && self.since.is_none()
    }

    /// Whether a flow of this time is in the asked-for range.
    pub fn covers(&self, time: Option<SystemTime>) -> bool {
        let Some(time) = time else {
            return self.since.is_none() && self.until.is_none();
        };
        self.since.is_none_or(|since| since <= time) && !self.is_past(Some(time))
    }

    /// Whether a flow of this time is after the asked-for range.
    pub fn is_past(&self, time: Option<SystemTime>) -> bool {
        time.is_some_and(|time| self.until.is_some_and(|until| time > until))
    }

    /// Picks from `items` (oldest first) what is asked for, oldest first. `admit` filters; it
    /// is called for no more items than needed. In order of time, also where a clock that was set
    /// back made that another than the order of arrival.
    ///
    /// `since` wins over `number`, which then limits nothing unless counted from the first.
    pub fn pick<T>(
        &self,
        items: impl DoubleEndedIterator<Item = T>,
        mut admit: impl FnMut(T) -> Option<GetFlowsResponse>,
    ) -> Vec<GetFlowsResponse> {
        if self.live_only() {
            return Vec::new();
        }
        let admitted = |item| admit(item).filter(|response| self.covers(response_time(response)));
        let limit = match self.number {
            Some(number) if self.first || self.since.is_none() => {
                usize::try_from(number).unwrap_or(usize::MAX)
            }
            _ => usize::MAX,
        };
        if self.first {
            let mut picked: Vec<_> = items.filter_map(admitted).take(limit).collect();
            picked.sort_by_key(response_time);
            return picked;
        }
        let mut picked: Vec<_> = items.rev().filter_map(admitted).take(limit).collect();
        picked.reverse();
        picked.sort_by_key(response_time);
        picked
    }
}

/// Time of a response.
pub fn response_time(response: &GetFlowsResponse) -> Option<SystemTime> {
    response
        .time
        .and_then(|time| SystemTime::try_from(time).ok())
}

fn time(field: &str, time: Option<Timestamp>) -> Result<Option<SystemTime>, Status> {
    time.map(SystemTime::try_from).transpose().map_err(|error| {
        Status::invalid_argument(format!("{field}: {error}: give a time that exists"))
    })
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
