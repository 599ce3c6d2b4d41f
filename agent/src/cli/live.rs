//! Flows from agents, several merged by time.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use futures::stream::{SelectAll, unfold};
use futures::{FutureExt as _, Stream, StreamExt as _};
use prost_types::Timestamp;
use tokio::time::{Instant, MissedTickBehavior};

use super::agents::{ANSWER_TIMEOUT, Agent, ask_each, refusal};
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

/// An agent that went while it was followed is asked again after the first of these; each time it
/// does not answer it has twice as long, the second at the most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

type Responses = Pin<Box<dyn Stream<Item = anyhow::Result<GetFlowsResponse>> + Send>>;

/// What becomes of one agent's stream.
enum Said {
    /// It has something.
    Response(Box<GetFlowsResponse>),
    /// It failed.
    Failed(anyhow::Error),
    /// All of it came.
    Ended,
    /// The agent, which is followed, ended it.
    Left(Agent),
    /// The agent, which had gone, has another.
    Back(Agent),
}

/// The streams of the agents that answered, as one in order of time.
pub struct Streams {
    merged: SelectAll<Pin<Box<dyn Stream<Item = Said> + Send>>>,
    count: Count,
    /// What came and may still be overtaken by something older.
    held: Vec<(Instant, GetFlowsResponse)>,
    tick: tokio::time::Interval,
    /// What is to be known and is no flow, until the next portion.
    news: Vec<String>,
    /// Why the last stream ended, until what came before is given.
    failed: Option<anyhow::Error>,
}

/// How many streams there are.
#[derive(Clone, Copy, Debug)]
struct Count {
    /// From which something may come.
    live: usize,
    /// That did not fail.
    good: usize,
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

/// Asks all agents. Those that fail are told of in the first portion. Agents that are followed
/// without an end and go, or are not there yet, are asked again until they answer, as long as
/// another one does.
///
/// # Errors
/// When all of them fail: the last failure; those before have been told about.
pub async fn open(agents: &[Agent], request: &GetFlowsRequest) -> anyhow::Result<Streams> {
    let answers = ask_each(agents, async |agent| ask(agent, request.clone()).await).await;
    let forever = request.follow && request.until.is_none();
    let mut merged = SelectAll::new();
    let mut failures = Vec::new();
    let mut good = 0;
    for (agent, answer) in agents.iter().zip(answers) {
        let stream = match answer {
            Ok(stream) => Some(stream),
            Err(error) => {
                failures.push(error);
                None
            }
        };
        good += usize::from(stream.is_some());
        if forever {
            merged.push(Followed::new(agent, request, stream).said().boxed());
        } else if let Some(stream) = stream {
            merged.push(once(stream).boxed());
        }
    }
    if good == 0 {
        let last = failures.pop();
        failures.iter().for_each(tell);
        return Err(last.unwrap_or_else(|| anyhow!("no agent to ask: see --server")));
    }
    let mut tick = tokio::time::interval(REORDER_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Streams {
        merged,
        count: Count { live: good, good },
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

/// As [`open`], for agents that were asked before and went: by connections of their own.
///
/// # Errors
/// As [`open`].
pub async fn open_again(agents: &[Agent], request: &GetFlowsRequest) -> anyhow::Result<Streams> {
    let anew = agents.iter().map(async |agent| {
        // One that the cluster does not have fails by its old name, with that reason.
        agent.anew().await.unwrap_or_else(|_| agent.clone())
    });
    open(&futures::future::join_all(anew).await, request).await
}

/// A stream that is not asked for again.
fn once(stream: Responses) -> impl Stream<Item = Said> + Send {
    unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        Some(match stream.next().await {
            Some(Ok(response)) => (Said::Response(Box::new(response)), Some(stream)),
            Some(Err(error)) => (Said::Failed(error), None),
            None => (Said::Ended, None),
        })
    })
}

/// An agent that is followed.
struct Followed {
    agent: Agent,
    request: GetFlowsRequest,
    /// None while it is gone.
    stream: Option<Responses>,
    /// Whether it ever had one.
    answered: bool,
    /// The last thing that came from it, or when it went if nothing did.
    last: Option<Timestamp>,
    pause: Duration,
}

impl Followed {
    fn new(agent: &Agent, request: &GetFlowsRequest, stream: Option<Responses>) -> Self {
        Self {
            agent: agent.clone(),
            request: request.clone(),
            answered: stream.is_some(),
            stream,
            last: None,
            pause: AGAIN.0,
        }
    }

    /// What becomes of it, without an end.
    fn said(self) -> impl Stream<Item = Said> + Send {
        unfold(self, |mut followed| async move {
            let said = followed.next().await;
            Some((said, followed))
        })
    }

    async fn next(&mut self) -> Said {
        let Some(stream) = &mut self.stream else {
            self.stream = Some(self.again().await);
            self.answered = true;
            self.pause = AGAIN.0;
            return Said::Back(self.agent.clone());
        };
        let said = match stream.next().await {
            Some(Ok(response)) => {
                self.last = response.time.or(self.last);
                return Said::Response(Box::new(response));
            }
            Some(Err(error)) => Said::Failed(error),
            None => Said::Left(self.agent.clone()),
        };
        self.stream = None;
        self.last.get_or_insert_with(|| SystemTime::now().into());
        said
    }

    /// Asks until it answers, for what came after the last.
    async fn again(&mut self) -> Responses {
        let mut request = self.request.clone();
        if self.answered {
            request.number = 0;
            request.since = self.last.map(after);
        }
        loop {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(AGAIN.1);
            let asked = async {
                let agent = self.agent.anew().await?;
                let stream = ask(&agent, request.clone()).await?;
                anyhow::Ok((agent, stream))
            };
            if let Ok(Ok((agent, stream))) = tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
                self.agent = agent;
                return stream;
            }
        }
    }
}

/// The moment after one.
fn after(time: Timestamp) -> Timestamp {
    let mut after = time;
    after.nanos += 1;
    after.normalize();
    after
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
        if self.count.live == 0 {
            return self.last();
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
                next = next(&mut self.merged, &mut self.count, &mut self.news) => match next {
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
        next(&mut self.merged, &mut self.count, &mut self.news).await
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

/// The next response, none when no stream is left. A stream that fails is news; only when none is
/// left that did not fail is it an error.
async fn next(
    merged: &mut SelectAll<Pin<Box<dyn Stream<Item = Said> + Send>>>,
    count: &mut Count,
    news: &mut Vec<String>,
) -> anyhow::Result<Option<GetFlowsResponse>> {
    while count.live > 0 {
        match merged.next().await {
            None => break,
            Some(Said::Response(response)) => return Ok(Some(*response)),
            Some(Said::Failed(error)) => {
                count.live -= 1;
                count.good -= 1;
                if count.good == 0 {
                    return Err(error);
                }
                news.push(format!("{error:#}"));
            }
            Some(Said::Ended) => count.live -= 1,
            Some(Said::Left(agent)) => {
                count.live -= 1;
                count.good -= 1;
                if count.live > 0 {
                    news.push(format!("{agent}: the agent ended; it is asked again"));
                }
            }
            Some(Said::Back(agent)) => {
                count.live += 1;
                count.good += 1;
                news.push(format!("{agent}: the agent answers again"));
            }
        }
    }
    Ok(None)
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
