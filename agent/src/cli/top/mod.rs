//! `nodescope top`: what happens now, on the whole screen.

mod flows;
mod keys;
mod panes;
mod screen;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use crossterm::event::{Event, EventStream};
use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use ratatui::DefaultTerminal;

use super::agents::Agent;
use super::filters::FlowFilters;
use super::live::{self, Streams};
use super::servers::Servers;
use crate::sink::proto::observer::GetFlowsRequest;
use flows::Flows;
use keys::{Action, View};

/// What happened in this time is there at once.
const BEFORE: Duration = Duration::from_secs(30);

/// How often the screen is drawn, at least.
const TICK: Duration = Duration::from_millis(500);

/// When agents that are gone are asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// Flags of `top`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  nodescope top                       this node, or the whole cluster
  nodescope top --pod shop/web        only what concerns a pod
  nodescope top --snat --node 'pool1-*'")]
pub struct Args {
    #[command(flatten)]
    filters: FlowFilters,
    #[command(flatten)]
    servers: Servers,
}

impl Args {
    fn request(&self) -> GetFlowsRequest {
        let mut request = GetFlowsRequest {
            follow: true,
            since: Some((SystemTime::now() - BEFORE).into()),
            ..GetFlowsRequest::default()
        };
        self.filters
            .of_nodes(&self.servers.nodes)
            .apply(&mut request);
        request
    }
}

/// Shows the view until the user leaves it.
///
/// # Errors
/// There is no terminal, no agent answers, or a filter cannot be.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("top needs a terminal: `nodescope observe --follow` writes to a pipe");
    }
    let agents = args.servers.resolve().await?;
    let streams = live::open(&agents, &args.request()).await?;
    let mut terminal = ratatui::try_init().context("preparing the terminal")?;
    let outcome = show(&mut terminal, &args, &agents, streams).await;
    ratatui::try_restore().context("giving the terminal back")?;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn show(
    terminal: &mut DefaultTerminal,
    args: &Args,
    agents: &[Agent],
    streams: Streams,
) -> anyhow::Result<()> {
    let mut flows = Flows::default();
    let mut view = View::new(agents.len());
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut source = Source::Open(streams);
    loop {
        terminal.draw(|frame| screen::draw(frame, &flows, &mut view))?;
        tokio::select! {
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) => {
                    if view.press(key, &mut flows) == Action::Leave {
                        return Ok(());
                    }
                }
                // Another size, or two: nobody knows what is left of the screen.
                Some(Ok(Event::Resize(..))) => terminal.clear()?,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("reading keys"),
                None => return Ok(()),
            },
            _ = tick.tick() => flows.forget(SystemTime::now()),
            news = source.next() => match news {
                Ok(News::Portion(portion)) => {
                    if let Some(news) = portion.news.last() {
                        view.news = Some(news.clone());
                    }
                    portion.responses.iter().for_each(|one| flows.take(one));
                }
                Ok(News::Back) => view.news = None,
                Ok(News::Ended) => {
                    view.news = Some("asking again: the agents ended their streams".to_owned());
                    source = Source::again(agents, args.request());
                }
                Err(error) => {
                    view.news = Some(format!("asking again: {error:#}"));
                    // Of other agents something may have been written across the screen.
                    terminal.clear()?;
                    source = Source::again(agents, args.request());
                }
            },
        }
    }
}

/// Where records come from.
enum Source {
    /// Agents that answer.
    Open(Streams),
    /// Agents that were gone and are asked again. Kept from one turn to the next, for the keys and
    /// the clock do not wait for it.
    Asked(LocalBoxFuture<'static, anyhow::Result<Streams>>),
}

impl Source {
    /// Asks agents again, after a while.
    fn again(agents: &[Agent], request: GetFlowsRequest) -> Self {
        let agents = agents.to_vec();
        let asked = async move {
            tokio::time::sleep(AGAIN).await;
            live::open_again(&agents, &request).await
        };
        Self::Asked(asked.boxed_local())
    }

    /// What comes next.
    async fn next(&mut self) -> anyhow::Result<News> {
        match self {
            Self::Open(streams) => Ok(match streams.portion().await? {
                Some(portion) => News::Portion(portion),
                None => News::Ended,
            }),
            Self::Asked(asked) => {
                let streams = asked.await?;
                *self = Self::Open(streams);
                Ok(News::Back)
            }
        }
    }
}

/// What came from the agents.
enum News {
    /// Records, or what is to be known of them.
    Portion(live::Portion),
    /// They ended their streams.
    Ended,
    /// They answer again.
    Back,
}
