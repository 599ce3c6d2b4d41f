//! `nodescope drops`: packets that the kernel dropped, between whom, why and where.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::agents::{Agent, ask_all, refusal};
use super::ends::{EndFilters, Ends, any};
use super::failure::tell;
use super::fit::Column;
use super::nat_rows::end;
use super::output::Format;
use super::page::{Entry, Page, Style, or_none};
use super::row::Tone;
use super::servers::Servers;
use crate::sink::json::DROP_REPORT;
use crate::sink::proto::node::drops_client::DropsClient;
use crate::sink::proto::node::{DropReport, ListDropsRequest, ListDropsResponse};

/// Flags of `drops`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  nodescope drops                          what died on this node, newest first
  nodescope drops --pod web --reason NETFILTER_DROP
  nodescope drops -o wide                  with the kernel's function and the bytes
  nodescope observe --verdict DROPPED -f   the same, live")]
pub struct Args {
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    servers: Servers,
}

/// Which losses. Values of one flag are alternatives, different flags must all fit.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    #[command(flatten)]
    ends: EndFilters,
    /// The kernel's reason, for example NETFILTER_DROP
    #[arg(long)]
    reason: Vec<String>,
}

impl Filters {
    /// Whether a loss is wanted.
    pub fn pass(&self, one: &DropReport) -> bool {
        let ends = Ends {
            pods: &[&one.source_pod, &one.destination_pod],
            ips: &[&one.source, &one.destination],
            ports: &[one.destination_port],
            protocol: &one.protocol,
        };
        let because = |wanted: &String| wanted.eq_ignore_ascii_case(&one.reason);
        self.ends.pass(&ends) && any(&self.reason, because)
    }
}

/// Shows the losses; an agent that fails, or does not see them, is told about.
///
/// # Errors
/// When all agents fail.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let agents = args.servers.resolve().await?;
    let answers = ask_all(&agents, list).await?.given;
    answers
        .iter()
        .flat_map(remarks)
        .for_each(|line| tell(&line));
    let mut all: Vec<_> = answers.into_iter().flat_map(|one| one.drops).collect();
    all.retain(|one| args.filters.pass(one));
    all.sort_by_key(|one| std::cmp::Reverse(one.last.map(|at| (at.seconds, at.nanos))));
    let mut page = Page::new(Style::of_stdout());
    match args.output {
        Format::Json => page.objects(DROP_REPORT, &all)?,
        Format::Compact => page.lines(all.iter().map(compact)),
        Format::Table => table(&mut page, &all, false, SystemTime::now()),
        Format::Wide => table(&mut page, &all, true, SystemTime::now()),
    }
    page.print()?;
    Ok(ExitCode::SUCCESS)
}

/// What an agent knows of packets that died.
///
/// # Errors
/// When the agent fails.
pub async fn list(agent: &Agent) -> anyhow::Result<ListDropsResponse> {
    let mut client = DropsClient::new(agent.channel().await?);
    let answer = client.list(ListDropsRequest {}).await;
    let answer = answer.map_err(|status| refusal(agent, &status))?;
    Ok(answer.into_inner())
}

/// What is to be known beside the losses.
fn remarks(answer: &ListDropsResponse) -> Vec<String> {
    let mut lines = Vec::new();
    let node = &answer.node;
    if !answer.off.is_empty() {
        lines.push(format!("{node}: drops are not seen: {}", answer.off));
    } else if !answer.reasons {
        lines.push(format!(
            "{node}: its kernel does not say why it drops packets (Linux before 5.17)"
        ));
    }
    if answer.forgotten > 0 {
        let forgotten = answer.forgotten;
        lines.push(format!(
            "{node}: {forgotten} older kinds of loss were forgotten for want of room; the metric \
             nodescope_drops_total has them all"
        ));
    }
    lines
}

/// The table.
fn table(page: &mut Page, all: &[DropReport], wide: bool, now: SystemTime) {
    if all.is_empty() {
        page.say("no packet was dropped", Tone::Plain);
        return;
    }
    const COLUMNS: [Column; 11] = [
        Column::new("LAST"),
        Column::new("REASON"),
        Column::new("SOURCE").cut(20),
        Column::new("DESTINATION").cut(20),
        Column::new("PROTO").leave(4),
        Column::new("PACKETS"),
        Column::new("HOOK").cut(14).leave(6),
        Column::new("NODE").cut(12).leave(5),
        Column::new("BYTES").leave(1),
        Column::new("FUNCTION").cut(16).leave(2),
        Column::new("SERVICE").cut(16).leave(3),
    ];
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            let mut cells = vec![
                ago(one, now),
                one.reason.clone(),
                source(one),
                destination(one),
                one.protocol.clone(),
                one.packets.to_string(),
                one.hook.clone(),
                or_none(&one.node),
            ];
            if wide {
                cells.extend([
                    one.bytes.to_string(),
                    or_none(&one.function),
                    or_none(&one.service),
                ]);
            }
            Entry::toned(cells, Tone::Bad)
        })
        .collect();
    page.table(if wide { &COLUMNS } else { &COLUMNS[..8] }, &rows);
}

/// One line a kind of loss.
fn compact(one: &DropReport) -> String {
    format!(
        "{} {}: {} -> {} {} {} packets at {}",
        or_none(&one.node),
        one.reason,
        source(one),
        destination(one),
        one.protocol,
        one.packets,
        one.hook
    )
}

fn source(one: &DropReport) -> String {
    host(&one.source_pod, &one.source, None)
}

fn destination(one: &DropReport) -> String {
    let port = Some(one.destination_port).filter(|port| *port != 0);
    host(&one.destination_pod, &one.destination, port)
}

fn host(pod: &str, ip: &str, port: Option<u32>) -> String {
    match (pod.is_empty(), port) {
        (false, Some(port)) => format!("{pod}:{port}"),
        (false, None) => pod.to_owned(),
        (true, Some(port)) => end(ip, port),
        (true, None) => ip.to_owned(),
    }
}

fn ago(one: &DropReport, now: SystemTime) -> String {
    let last = one.last.and_then(|at| SystemTime::try_from(at).ok());
    let age = last.map(|at| now.duration_since(at).unwrap_or_default());
    let age = age.unwrap_or_default().as_secs();
    format!(
        "{} ago",
        humantime::format_duration(Duration::from_secs(age))
    )
}

#[cfg(test)]
#[path = "drops_tests.rs"]
mod tests;
