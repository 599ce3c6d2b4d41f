//! `nodescope observe`: flows, last and live.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::bail;

use super::filters::FlowFilters;
use super::output::{Format, Output};
use super::servers::Servers;
use super::{input, live, time};
use crate::sink::proto::observer::GetFlowsRequest;

/// Flows shown when nothing says how many.
const DEFAULT_LAST: u64 = 20;

/// Flags of `observe`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  nodescope observe                            the newest 20 flows
  nodescope observe -f --pod shop/web          live, of one pod
  nodescope observe --snat --class pod-to-world --since 5m
  nodescope observe -f --verdict dropped -o compact
  nodescope observe --last 100 -o json | jq .flow.Summary
  nodescope observe --input-file flows.jsonl --to-port 443 --all")]
pub struct Args {
    /// Stay, and show flows as they come
    #[arg(long, short)]
    follow: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Read a flow log (`-`: standard input) instead of asking agents, wherever they are
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    input_file: Option<PathBuf>,
    #[command(flatten)]
    filters: FlowFilters,
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    servers: Servers,
}

/// How many flows, and from when.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Range")]
struct Range {
    /// The newest N flows [default: 20]
    #[arg(long, value_name = "N", conflicts_with_all = ["first", "all"])]
    last: Option<u64>,
    /// The oldest N flows
    #[arg(long, value_name = "N", conflicts_with_all = ["all", "follow"])]
    first: Option<u64>,
    /// All flows that the agents keep
    #[arg(long)]
    all: bool,
    /// Not older than this: a time (RFC 3339), or how long ago (5m)
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<SystemTime>,
    /// Not newer than this
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<SystemTime>,
}

impl Args {
    fn request(&self) -> GetFlowsRequest {
        let Range {
            last,
            first,
            all,
            since,
            until,
        } = self.range;
        let number = match (last, first) {
            (Some(number), _) | (_, Some(number)) => number,
            _ if all => u64::MAX,
            _ if self.follow || since.is_some() => 0,
            _ => DEFAULT_LAST,
        };
        let mut request = GetFlowsRequest {
            number,
            first: first.is_some(),
            follow: self.follow,
            since: since.map(Into::into),
            until: until.map(Into::into),
            ..GetFlowsRequest::default()
        };
        self.filters
            .of_nodes(&self.servers.nodes)
            .apply(&mut request);
        request
    }

    /// The newest or oldest so many of what several agents sent.
    fn trim<T>(&self, flows: &mut Vec<T>) {
        let places = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let request_number = self.request().number;
        if let Some(first) = self.range.first {
            flows.truncate(places(first));
        } else if request_number > 0 {
            let surplus = flows.len().saturating_sub(places(request_number));
            flows.drain(..surplus);
        }
    }
}

/// Shows flows.
///
/// # Errors
/// When no agent answers, a filter cannot be, or the log cannot be read.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let request = args.request();
    let mut output = Output::new(args.output);
    if let Some(file) = &args.input_file {
        let mut flows = input::read(file, &request)?;
        args.trim(&mut flows);
        output.print(&flows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let agents = args.servers.resolve().await?;
    let streams = live::open(&agents, &request).await?;
    if args.follow {
        live::follow(streams, &mut output).await?;
        if args.range.until.is_none() {
            bail!(
                "the agents ended their streams: they were stopped; start again when they are back"
            );
        }
    } else {
        let mut flows = live::collect(streams).await?;
        args.trim(&mut flows);
        output.print(&flows)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
