//! `nodescope path`: one connection hop by hop, the nodes joined.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::bail;

use super::agents::{Agent, ask_each, refusal};
use super::failure::tell;
use super::filters::FlowFilters;
use super::output::Format;
use super::page::{Page, Style};
use super::path_end::judge;
use super::path_join::{Path, join, newest};
use super::path_leg::Leg;
use super::servers::Servers;
use super::{input, live, time};
use super::{path_lost, path_show};
use crate::sink::observer::filter::Filters;
use crate::sink::proto::node::DescribeRequest;
use crate::sink::proto::node::node_client::NodeClient;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;
use crate::sink::proto::observer::{GetFlowsRequest, GetFlowsResponse};

/// Flags of `path`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "All agents are asked, for a connection may cross several nodes; --node keeps those that the node saw.

Examples:
  nodescope path --pod web --to-port 5432     the newest connection of a pod to a port
  nodescope path --service shop/web --last 3  the newest three to a service
  nodescope path --ip 10.1.2.3 --since 5m -o compact
  nodescope path --pod web --input-file node0.jsonl --input-file node1.jsonl"
)]
pub struct Args {
    /// The newest N connections that fit
    #[arg(long, value_name = "N", default_value_t = 1)]
    last: usize,
    /// Seen not before this: a time (RFC 3339), or how long ago (5m)
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<SystemTime>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Read a flow log instead of asking agents; may be given several times, once a node
    #[arg(long, value_name = "FILE")]
    input_file: Vec<PathBuf>,
    #[command(flatten)]
    filters: FlowFilters,
    #[command(flatten)]
    servers: Servers,
}

/// Shows connections.
///
/// # Errors
/// When no agent answers, a filter cannot be, or no connection fits.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // The next node's leg may not fit the filters (a masqueraded initiator is a node there), so
    // everything is asked for and the filters pick among the joined.
    let everything = GetFlowsRequest {
        number: u64::MAX,
        since: args.since.map(Into::into),
        ..GetFlowsRequest::default()
    };
    let mut wanted = GetFlowsRequest::default();
    args.filters
        .of_nodes(&args.servers.nodes)
        .apply(&mut wanted);
    let filters = Filters::compile(&wanted)?;
    let (records, mut asked) = if args.input_file.is_empty() {
        let agents = args.servers.everywhere().await?;
        let streams = live::open(&agents, &everything).await?;
        (live::collect(streams).await?, names(&agents).await)
    } else {
        let mut records = Vec::new();
        for file in &args.input_file {
            records.extend(input::read(file, &everything)?);
        }
        (records, BTreeSet::new())
    };
    let fits: BTreeSet<(String, String)> = records
        .iter()
        .filter(|record| passes(&filters, record))
        .filter_map(Leg::read)
        .map(|leg| (leg.node, leg.connection))
        .collect();
    let mut legs = newest(records.iter().filter_map(Leg::read));
    path_lost::tell(&mut legs, &records);
    asked.extend(legs.iter().map(|leg| leg.node.clone()));
    let seen = legs.len();
    let mut paths: Vec<Path> = join(legs)
        .into_iter()
        .filter(|path| path.legs.iter().any(|leg| fits.contains(&key(leg))))
        .collect();
    if paths.is_empty() {
        bail!(
            "no connection fits ({seen} seen on {} nodes): check the filters, or send some traffic",
            asked.len()
        );
    }
    paths.drain(..paths.len().saturating_sub(args.last));
    let mut page = Page::new(Style::of_stdout());
    for (index, path) in paths.iter().enumerate() {
        let end = judge(path, &asked);
        match args.output {
            Format::Json => page.lines([path_show::json(path, &end).to_string()]),
            Format::Compact => page.lines([path_show::compact(path, &end)]),
            Format::Table | Format::Wide => {
                if index > 0 {
                    page.gap();
                }
                path_show::show(&mut page, path, &end, args.output == Format::Wide);
            }
        }
    }
    page.print()?;
    Ok(ExitCode::SUCCESS)
}

fn key(leg: &Leg) -> (String, String) {
    (leg.node.clone(), leg.connection.clone())
}

fn passes(filters: &Filters, record: &GetFlowsResponse) -> bool {
    match &record.response_types {
        Some(ResponseTypes::Flow(flow)) => filters.pass(flow),
        _ => false,
    }
}

/// The nodes behind the agents: one that saw nothing is told apart from one not asked.
async fn names(agents: &[Agent]) -> BTreeSet<String> {
    let answers = ask_each(agents, async |agent| {
        let mut client = NodeClient::new(agent.channel().await?);
        let answer = client.describe(DescribeRequest {}).await;
        let answer = answer.map_err(|status| refusal(agent, &status))?;
        Ok(answer.into_inner().name)
    });
    let mut names = BTreeSet::new();
    for answer in answers.await {
        match answer {
            Ok(name) => drop(names.insert(name)),
            Err(error) => tell(&error),
        }
    }
    names
}

#[cfg(test)]
#[path = "path_tests.rs"]
pub(super) mod tests;
