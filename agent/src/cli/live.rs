//! Flows from agents, several merged by time.

use std::time::Duration;

use anyhow::bail;
use futures::stream::SelectAll;
use futures::{FutureExt as _, Stream, StreamExt as _};
use std::pin::Pin;
use tokio::time::{Instant, MissedTickBehavior};

use super::failure::tell;
use super::output::Output;
use super::servers::{connect, refusal};
use crate::sink::proto::observer::get_flows_response::ResponseTypes;
use crate::sink::proto::observer::observer_client::ObserverClient;
use crate::sink::proto::observer::{GetFlowsRequest, GetFlowsResponse};

/// Live flows of several agents are held back so long, so that one that is a little late still
/// comes in order.
const REORDER_WINDOW: Duration = Duration::from_millis(500);

/// How often held-back flows are looked through.
const REORDER_TICK: Duration = Duration::from_millis(100);

/// Responses printed at once.
const PORTION: usize = 256;

type Item = anyhow::Result<GetFlowsResponse>;

/// The streams of the agents that answered.
pub struct Streams {
    merged: SelectAll<Pin<Box<dyn Stream<Item = Item> + Send>>>,
    open: usize,
}

/// Asks all agents. Those that fail are told about.
///
/// # Errors
/// When all of them fail.
pub async fn open(addresses: &[String], request: &GetFlowsRequest) -> anyhow::Result<Streams> {
    let asked = addresses
        .iter()
        .map(|address| ask(address.clone(), request.clone()));
    let answers = futures::future::join_all(asked).await;
    let mut merged = SelectAll::new();
    let mut failures = Vec::new();
    for answer in answers {
        match answer {
            Ok(stream) => merged.push(stream),
            Err(error) => failures.push(error),
        }
    }
    let open = merged.len();
    if open == 0 {
        let last = failures.pop();
        failures.iter().for_each(tell);
        return Err(last.unwrap_or_else(|| anyhow::anyhow!("no agent to ask: see --server")));
    }
    failures.iter().for_each(tell);
    Ok(Streams { merged, open })
}

async fn ask(
    address: String,
    request: GetFlowsRequest,
) -> anyhow::Result<Pin<Box<dyn Stream<Item = Item> + Send>>> {
    let mut client = ObserverClient::new(connect(&address).await?);
    let answer = client
        .get_flows(request)
        .await
        .map_err(|status| refusal(&address, &status))?;
    let name = address;
    let responses = answer
        .into_inner()
        .map(move |response| response.map_err(|status| refusal(&name, &status)));
    Ok(responses.boxed())
}

impl Streams {
    /// The next response. A stream that fails is told about; only when none is left that did
    /// not fail is it an error.
    async fn next(&mut self) -> anyhow::Result<Option<GetFlowsResponse>> {
        loop {
            match self.merged.next().await {
                None => return Ok(None),
                Some(Ok(response)) => return Ok(Some(response)),
                Some(Err(error)) => {
                    self.open -= 1;
                    if self.open == 0 {
                        return Err(error);
                    }
                    tell(&error);
                }
            }
        }
    }

    /// What has come already, without waiting.
    fn ready(&mut self, limit: usize) -> anyhow::Result<Vec<GetFlowsResponse>> {
        let mut responses = Vec::new();
        while responses.len() < limit {
            match self.next().now_or_never() {
                Some(Ok(Some(response))) => responses.push(response),
                Some(Err(error)) => return Err(error),
                Some(Ok(None)) | None => break,
            }
        }
        Ok(responses)
    }
}

/// All responses, sorted by time.
///
/// # Errors
/// When every agent failed.
pub async fn collect(mut streams: Streams) -> anyhow::Result<Vec<GetFlowsResponse>> {
    let mut responses = Vec::new();
    while let Some(response) = streams.next().await? {
        tell_news(&response);
        responses.push(response);
    }
    sort(&mut responses);
    Ok(responses)
}

/// Prints responses as they come, until all streams end.
///
/// # Errors
/// When every agent failed, or nobody reads the output any more.
pub async fn follow(mut streams: Streams, output: &mut Output) -> anyhow::Result<()> {
    if streams.open > 1 {
        return follow_merged(streams, output).await;
    }
    while let Some(response) = streams.next().await? {
        let mut responses = vec![response];
        responses.extend(streams.ready(PORTION)?);
        responses.iter().for_each(tell_news);
        output.print(&responses)?;
    }
    bail!("the agent ended the stream: it was stopped, or --until is over")
}

async fn follow_merged(mut streams: Streams, output: &mut Output) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(REORDER_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut held: Vec<(Instant, GetFlowsResponse)> = Vec::new();
    loop {
        tokio::select! {
            response = streams.next() => {
                let Some(response) = response? else { break };
                tell_news(&response);
                held.push((Instant::now(), response));
            }
            _ = tick.tick() => print_old(&mut held, output)?,
        }
    }
    let mut rest: Vec<_> = held.into_iter().map(|(_, response)| response).collect();
    sort(&mut rest);
    output.print(&rest)
}

/// Prints what came before the window began, and everything older than the newest of it.
fn print_old(
    held: &mut Vec<(Instant, GetFlowsResponse)>,
    output: &mut Output,
) -> anyhow::Result<()> {
    let due = held
        .iter()
        .filter(|(came, _)| came.elapsed() >= REORDER_WINDOW);
    let Some(newest) = due.map(|(_, response)| time_of(response)).max() else {
        return Ok(());
    };
    let mut due: Vec<_> = held
        .extract_if(.., |(_, response)| time_of(response) <= newest)
        .map(|(_, response)| response)
        .collect();
    sort(&mut due);
    output.print(&due)
}

fn sort(responses: &mut [GetFlowsResponse]) {
    responses.sort_by_key(time_of);
}

fn time_of(response: &GetFlowsResponse) -> Option<(i64, i32)> {
    response.time.map(|time| (time.seconds, time.nanos))
}

/// What is no flow but matters to who reads the flows.
fn tell_news(response: &GetFlowsResponse) {
    let node = &response.node_name;
    match &response.response_types {
        Some(ResponseTypes::LostEvents(lost)) => {
            let count = lost.num_events_lost;
            tell(&format_args!(
                "{node}: {count} flows not shown: they came faster than read"
            ));
        }
        Some(ResponseTypes::NodeStatus(status)) => {
            let (state, nodes) = (
                status.state_change().as_str_name(),
                status.node_names.join(", "),
            );
            tell(&format_args!("{nodes}: {state} {}", status.message));
        }
        Some(ResponseTypes::Flow(_)) | None => {}
    }
}
