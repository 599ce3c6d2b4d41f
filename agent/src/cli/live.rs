//! Flows from agents, several merged by time.

use std::pin::Pin;
use std::time::Duration;

use anyhow::anyhow;
use futures::stream::SelectAll;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::time::{Instant, MissedTickBehavior};

use super::agents::{Agent, ask_each, refusal};
use super::failure::tell;
use super::output::Output;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;
use crate::sink::proto::observer::observer_client::ObserverClient;
use crate::sink::proto::observer::{GetFlowsRequest, GetFlowsResponse};

/// Live flows of several agents are held back so long, so that one that is a little late still
/// comes in order.
const REORDER_WINDOW: Duration = Duration::from_millis(500);

/// How often held-back flows are looked through.
const REORDER_TICK: Duration = Duration::from_millis(100);

/// Responses given at once.
const PORTION: usize = 256;

type Responses = Pin<Box<dyn Stream<Item = anyhow::Result<GetFlowsResponse>> + Send>>;

/// The streams of the agents that answered, as one in order of time.
pub struct Streams {
    merged: SelectAll<Responses>,
    /// Streams that did not fail.
    open: usize,
    /// What came and may still be overtaken by something older.
    held: Vec<(Instant, GetFlowsResponse)>,
    tick: tokio::time::Interval,
    /// What is to be known and is no flow, until the next portion.
    news: Vec<String>,
    /// Why the last stream ended, until what came before is given.
    failed: Option<anyhow::Error>,
}

/// What came from the agents since the last.
#[derive(Debug, Default)]
pub struct Portion {
    /// In order of time, also with regard to those given before, as far as no agent was later than
    /// the time that flows are held back.
    pub responses: Vec<GetFlowsResponse>,
    /// Agents that failed, flows that were lost: a line each, for people.
    pub news: Vec<String>,
}

/// Asks all agents. Those that fail are told of in the first portion.
///
/// # Errors
/// When all of them fail: the last failure; those before have been told about.
pub async fn open(agents: &[Agent], request: &GetFlowsRequest) -> anyhow::Result<Streams> {
    let answers = ask_each(agents, async |agent| ask(agent, request.clone()).await).await;
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
        return Err(last.unwrap_or_else(|| anyhow!("no agent to ask: see --server")));
    }
    let mut tick = tokio::time::interval(REORDER_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Streams {
        merged,
        open,
        held: Vec::new(),
        tick,
        news: failures.iter().map(|error| format!("{error:#}")).collect(),
        failed: None,
    })
}

async fn ask(agent: &Agent, request: GetFlowsRequest) -> anyhow::Result<Responses> {
    let mut client = ObserverClient::new(agent.channel().await?);
    let answer = client.get_flows(request).await;
    let answer = answer.map_err(|status| refusal(agent, &status))?;
    let agent = agent.clone();
    let responses = answer
        .into_inner()
        .map(move |response| response.map_err(|status| refusal(&agent, &status)));
    Ok(responses.boxed())
}

impl Streams {
    /// What came next, waited for; none when all streams have ended.
    ///
    /// # Errors
    /// When the last stream that was left failed.
    pub async fn portion(&mut self) -> anyhow::Result<Option<Portion>> {
        if !self.news.is_empty() {
            return Ok(Some(self.give(Vec::new())));
        }
        if self.merged.len() > 1 || !self.held.is_empty() {
            return self.reordered().await;
        }
        match self.next().await {
            Ok(Some(response)) => {
                let mut responses = vec![response];
                self.ready(&mut responses);
                Ok(Some(self.give(responses)))
            }
            Ok(None) => self.last(),
            Err(error) => {
                self.failed.get_or_insert(error);
                self.last()
            }
        }
    }

    /// Waits until something held back is old enough.
    async fn reordered(&mut self) -> anyhow::Result<Option<Portion>> {
        loop {
            tokio::select! {
                next = next(&mut self.merged, &mut self.open, &mut self.news) => match next {
                    Ok(Some(response)) => self.held.push((Instant::now(), response)),
                    Ok(None) => return self.last(),
                    Err(error) => {
                        self.failed.get_or_insert(error);
                        return self.last();
                    }
                },
                _ = self.tick.tick() => {
                    let responses = due(&mut self.held);
                    if !responses.is_empty() || !self.news.is_empty() {
                        return Ok(Some(self.give(responses)));
                    }
                }
            }
        }
    }

    /// What is left when all streams have ended.
    fn last(&mut self) -> anyhow::Result<Option<Portion>> {
        let held = std::mem::take(&mut self.held);
        let mut responses: Vec<_> = held.into_iter().map(|(_, response)| response).collect();
        if responses.is_empty() && self.news.is_empty() {
            return self.failed.take().map_or(Ok(None), Err);
        }
        sort(&mut responses);
        Ok(Some(self.give(responses)))
    }

    fn give(&mut self, responses: Vec<GetFlowsResponse>) -> Portion {
        let mut news = std::mem::take(&mut self.news);
        news.extend(responses.iter().filter_map(told));
        Portion { responses, news }
    }

    async fn next(&mut self) -> anyhow::Result<Option<GetFlowsResponse>> {
        next(&mut self.merged, &mut self.open, &mut self.news).await
    }

    /// What has come already, without waiting.
    fn ready(&mut self, responses: &mut Vec<GetFlowsResponse>) {
        while responses.len() < PORTION {
            match self.next().now_or_never() {
                Some(Ok(Some(response))) => responses.push(response),
                Some(Err(error)) => self.failed = Some(error),
                Some(Ok(None)) | None => break,
            }
        }
    }
}

/// The next response. A stream that fails is news; only when none is left that did not fail is it
/// an error.
async fn next(
    merged: &mut SelectAll<Responses>,
    open: &mut usize,
    news: &mut Vec<String>,
) -> anyhow::Result<Option<GetFlowsResponse>> {
    loop {
        match merged.next().await {
            None => return Ok(None),
            Some(Ok(response)) => return Ok(Some(response)),
            Some(Err(error)) => {
                *open -= 1;
                if *open == 0 {
                    return Err(error);
                }
                news.push(format!("{error:#}"));
            }
        }
    }
}

/// All responses, sorted by time. News is told.
///
/// # Errors
/// When every agent failed.
pub async fn collect(mut streams: Streams) -> anyhow::Result<Vec<GetFlowsResponse>> {
    let mut responses = Vec::new();
    while let Some(response) = streams.next().await? {
        responses.push(response);
    }
    let mut all = streams.give(responses);
    all.news.iter().for_each(tell);
    sort(&mut all.responses);
    Ok(all.responses)
}

/// Prints responses as they come, until all streams end.
///
/// # Errors
/// When every agent failed, or nobody reads the output any more.
pub async fn follow(mut streams: Streams, output: &mut Output) -> anyhow::Result<()> {
    while let Some(portion) = streams.portion().await? {
        portion.news.iter().for_each(tell);
        output.print(&portion.responses)?;
    }
    Ok(())
}

/// Takes what came before the window began, and everything older than the newest of it.
fn due(held: &mut Vec<(Instant, GetFlowsResponse)>) -> Vec<GetFlowsResponse> {
    let old = held
        .iter()
        .filter(|(came, _)| came.elapsed() >= REORDER_WINDOW);
    let Some(newest) = old.map(|(_, response)| time_of(response)).max() else {
        return Vec::new();
    };
    let mut due: Vec<_> = held
        .extract_if(.., |(_, response)| time_of(response) <= newest)
        .map(|(_, response)| response)
        .collect();
    sort(&mut due);
    due
}

fn sort(responses: &mut [GetFlowsResponse]) {
    responses.sort_by_key(time_of);
}

fn time_of(response: &GetFlowsResponse) -> Option<(i64, i32)> {
    response.time.map(|time| (time.seconds, time.nanos))
}

/// What is no flow but matters to who reads the flows.
fn told(response: &GetFlowsResponse) -> Option<String> {
    let node = &response.node_name;
    match &response.response_types {
        Some(ResponseTypes::LostEvents(lost)) => {
            let count = lost.num_events_lost;
            Some(format!(
                "{node}: {count} flows not shown: they came faster than read"
            ))
        }
        Some(ResponseTypes::NodeStatus(status)) => {
            let (state, nodes) = (
                status.state_change().as_str_name(),
                status.node_names.join(", "),
            );
            Some(format!("{nodes}: {state} {}", status.message))
        }
        Some(ResponseTypes::Flow(_)) | None => None,
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
