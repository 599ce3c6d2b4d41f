//! Servers that refuse, are slow, or came back as they were some time ago.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nodescope::cluster::Patience;
use nodescope_tests::apiserver::{ApiServer, Counts, Fault};

use crate::support::{TOKEN, Watching, asked, node, pod, server, soon, watched};

#[tokio::main(flavor = "current_thread")]
pub async fn a_busy_server_is_left_alone_for_as_long_as_it_asks() -> Result<()> {
    const SECONDS: u32 = 2;
    let server = server()?;
    let watching = Watching::start(&server, &server.plain_url()).await?;
    watching.pods(2).await?;
    watched(&server).await?;
    server.faults().set(Fault::Busy(SECONDS));
    let before = asked(&server, "nodes");
    server.faults().drop_watches();
    watching.errors("nodes", 1).await?;
    let told = Instant::now();
    // The watch that breaks is one failure, the answer to the next request another.
    watching.errors("nodes", 2).await?;
    watching.errors("nodes", 3).await?;
    let (waited, requests) = (told.elapsed(), asked(&server, "nodes") - before);
    let least = Duration::from_secs(SECONDS.into());
    ensure!(waited >= least, "asked again after {waited:?}");
    ensure!(requests <= 3, "{requests} requests in {waited:?}");
    let log = watching.log();
    ensure!(log.contains("429"), "{log}");
    server.store().apply(pod(2))?;
    server.faults().clear();
    watching.recovers("429 with Retry-After 2", 3).await
}

/// Each answer is an empty success: nothing to count as a failure, and nothing to wait for.
#[tokio::main(flavor = "current_thread")]
pub async fn watches_that_end_at_once_are_not_begun_in_a_storm() -> Result<()> {
    let server = server()?;
    let watching = Watching::start(&server, &server.plain_url()).await?;
    watching.pods(2).await?;
    watched(&server).await?;
    let watches = |now: &Counts| now.requests("watch", "nodes");
    let before = watches(&server.counters().now());
    let start = Instant::now();
    server.faults().set(Fault::Empty);
    server.faults().close_watches();
    let counters = server.counters();
    let some = counters.wait_until(|now| watches(now) >= before + 2);
    soon("two more watches", some).await?;
    let apart = start.elapsed();
    ensure!(
        apart >= Duration::from_secs(1),
        "two more watches in {apart:?}"
    );
    server.store().apply(pod(2))?;
    server.faults().clear();
    watching.recovers("watches that end at once", 3).await
}

/// Killed, and back with what it had some time ago: its versions are smaller than those that the
/// agent has seen, and a watch after one of those would wait for ever.
#[tokio::main(flavor = "current_thread")]
pub async fn a_server_that_comes_back_with_an_older_history_is_read_anew() -> Result<()> {
    let first = server()?;
    first.load((2..40).map(pod).collect())?;
    let (address, url) = (first.address(), first.plain_url());
    let watching = Watching::start(&first, &url).await?;
    watching.pods(40).await?;
    watched(&first).await?;
    let reached = first.store().version();
    first.refuse_connections(true)?;
    drop(first);
    let second = soon("the port", async {
        loop {
            if let Ok(server) = ApiServer::start(address, TOKEN) {
                break server;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await?;
    second.load(vec![node(), pod(0), pod(1), pod(90)])?;
    ensure!(second.store().version() < reached);
    watching.recovers("an older history", 3).await?;
    second.store().apply(pod(91))?;
    watching.pods(4).await
}

/// Events in drops of a few bytes, and a request that is answered after a while only.
#[tokio::main(flavor = "current_thread")]
pub async fn a_slow_server_is_waited_for() -> Result<()> {
    let server = server()?;
    server.faults().set(Fault::Hang);
    let watching = Watching::start(&server, &server.plain_url()).await?;
    let counters = server.counters();
    let hanging = counters.wait_until(|now| now.total() > 0);
    soon("the request", hanging).await?;
    server.faults().drip(true);
    server.faults().clear();
    watching.pods(2).await?;
    watched(&server).await?;
    server.store().apply(pod(2))?;
    server.store().apply(pod(3))?;
    watching.pods(4).await?;
    ensure!(watching.failures("pods") == 0, "slowness is no failure");
    Ok(())
}

/// A server that takes requests and answers none is given up, and asked again.
#[tokio::main(flavor = "current_thread")]
pub async fn a_server_that_never_answers_is_given_up() -> Result<()> {
    let server = server()?;
    server.faults().set(Fault::Hang);
    let patience = Patience {
        answer: Duration::from_secs(1),
        ..Patience::default()
    };
    let watching = Watching::with(&server, &server.plain_url(), patience).await?;
    watching.errors("nodes", 2).await?;
    server.faults().clear();
    watching.recovers("no answers", 2).await
}
