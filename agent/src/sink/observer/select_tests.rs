//! Which flows a request gets.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tonic::{Code, Status};

use super::*;

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn response(second: u64) -> GetFlowsResponse {
    GetFlowsResponse {
        time: Some(Timestamp::from(at(second))),
        ..GetFlowsResponse::default()
    }
}

/// Picks from flows of the seconds 0 to 9, of which the filter lets the even ones pass.
fn picked(selection: Selection) -> Vec<u64> {
    let even = |second: u64| second.is_multiple_of(2).then(|| response(second));
    let picked = selection.pick(0..10, even);
    picked
        .iter()
        .filter_map(|response| u64::try_from(response.time?.seconds).ok())
        .collect()
}

#[test]
fn number_counts_matching_flows_from_the_newest() {
    assert_eq!(
        picked(Selection {
            number: Some(2),
            ..Selection::default()
        }),
        [6, 8]
    );
    assert_eq!(
        picked(Selection {
            number: Some(u64::MAX),
            ..Selection::default()
        })
        .len(),
        5
    );
}

#[test]
fn first_counts_from_the_oldest() {
    let selection = Selection {
        number: Some(2),
        first: true,
        ..Selection::default()
    };
    assert_eq!(picked(selection), [0, 2]);
}

#[test]
fn no_number_is_everything() {
    assert_eq!(picked(Selection::default()), [0, 2, 4, 6, 8]);
}

#[test]
fn since_and_until_bound_the_times_inclusively() {
    let bounds = Selection {
        since: Some(at(4)),
        until: Some(at(6)),
        ..Selection::default()
    };
    assert_eq!(picked(bounds), [4, 6]);
    let until = Selection {
        number: Some(1),
        until: Some(at(5)),
        ..Selection::default()
    };
    assert_eq!(picked(until), [4]);
}

#[test]
fn since_wins_over_number_but_not_over_first() {
    let since = Selection {
        number: Some(1),
        since: Some(at(3)),
        ..Selection::default()
    };
    assert_eq!(picked(since), [4, 6, 8]);
    assert_eq!(
        picked(Selection {
            first: true,
            ..since
        }),
        [4]
    );
}

#[test]
fn follow_alone_rewinds_nothing_but_with_a_number_it_does() {
    let follow = Selection {
        follow: true,
        ..Selection::default()
    };
    assert_eq!(picked(follow), [] as [u64; 0]);
    assert_eq!(
        picked(Selection {
            number: Some(1),
            ..follow
        }),
        [8]
    );
    assert_eq!(
        picked(Selection {
            since: Some(at(7)),
            ..follow
        }),
        [8]
    );
}

#[test]
fn asks_the_filter_only_as_often_as_needed() {
    let mut asked = 0;
    Selection {
        number: Some(1),
        ..Selection::default()
    }
    .pick(0..10, |second| {
        asked += 1;
        Some(response(second))
    });
    assert_eq!(asked, 1);
}

#[test]
fn first_with_follow_is_an_invalid_argument() -> Result<(), Status> {
    let request = GetFlowsRequest {
        first: true,
        follow: true,
        ..GetFlowsRequest::default()
    };
    let Err(status) = Selection::of(&request) else {
        return Err(Status::internal("first and follow were accepted"));
    };
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(Selection::of(&GetFlowsRequest::default())?.number.is_none());
    Ok(())
}
