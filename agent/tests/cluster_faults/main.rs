//! What the API server does wrong, and what the network does on the way to it: the agent waits as
//! long as it is told, never asks in a storm, and knows the cluster again when the fault is over.

mod answers;
mod credentials;
mod partition;
mod support;

use std::thread;

use anyhow::{Result, anyhow, ensure};

type Case = (&'static str, fn() -> Result<()>);

/// Names what follows by itself.
macro_rules! cases {
    ($($room:ident :: $case:ident),* $(,)?) => {
        &[$((stringify!($case), $room::$case)),*]
    };
}

const CASES: &[Case] = cases![
    answers::a_busy_server_is_left_alone_for_as_long_as_it_asks,
    answers::watches_that_end_at_once_are_not_begun_in_a_storm,
    answers::a_server_that_comes_back_with_an_older_history_is_read_anew,
    answers::a_slow_server_is_waited_for,
    answers::a_server_that_never_answers_is_given_up,
    credentials::a_token_that_is_rotated_is_in_force_at_once,
    credentials::a_kubeconfig_that_is_replaced_is_read_anew,
    credentials::an_expired_certificate_is_named_and_its_successor_taken,
    credentials::a_certificate_of_the_future_is_named_and_its_successor_taken,
    credentials::a_certificate_of_somebody_else_is_named_and_its_successor_taken,
    partition::a_partition_is_noticed_by_silence_and_outlived,
];

/// They wait for most of the time: all at once, on a thread each.
#[test]
fn every_fault_is_outlived() -> Result<()> {
    let failed: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = CASES
            .iter()
            .map(|(name, run)| (name, scope.spawn(run)))
            .collect();
        let outcomes = running.into_iter().filter_map(|(name, thread)| {
            let outcome = thread.join();
            let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked")));
            outcome.err().map(|error| format!("{name}: {error:#}"))
        });
        outcomes.collect()
    });
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
