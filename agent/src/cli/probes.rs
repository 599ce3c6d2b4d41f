//! `nodescope probes`: who asks whom for its health, and what the answer is.

use std::process::ExitCode;

use anyhow::bail;

use super::agents::{Agent, ask_all, refusal};
use super::fit::Column;
use super::output::Format;
use super::page::{Entry, Page, Style};
use super::row::Tone;
use super::servers::Servers;
use super::time;
use crate::sink::proto::node::probes_client::ProbesClient;
use crate::sink::proto::node::{
    ListProbesRequest, ProbeHappening, ProbeTarget, ProbeTimelineRequest,
};

/// Flags of `probes`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  nodescope probes                     every target: interval, last answer, success, last seen
  nodescope probes -o wide             with path, period, gaps and weight
  nodescope probes --timeline shop/web what happened to a service on each node
  nodescope probes -o json | jq 'select(.result != \"success\")'")]
pub struct Args {
    /// What happened to a service on each node: endpoints, answers, traffic, in order of time
    #[arg(long, value_name = "[NAMESPACE/]SERVICE", value_parser = service)]
    timeline: Option<(String, String)>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    servers: Servers,
}

/// `NAMESPACE/NAME`, or a name in the namespace `default`.
fn service(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err("write SERVICE or NAMESPACE/SERVICE".to_owned());
    }
    Ok((namespace.to_owned(), name.to_owned()))
}

/// Shows targets, or the timeline of a service.
///
/// # Errors
/// When all agents fail.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let agents = args.servers.resolve().await?;
    let mut page = Page::new(Style::of_stdout());
    if let Some((namespace, name)) = &args.timeline {
        let asked = ask_all(&agents, async |to| timeline(to, namespace, name).await);
        let mut happenings = asked.await?.given.concat();
        happenings.sort_by_key(|one| one.time.map(|time| (time.seconds, time.nanos)));
        match args.output {
            Format::Json => page.sparse_objects("nodescope.v1.ProbeHappening", &happenings)?,
            Format::Compact => page.lines(happenings.iter().map(|one| happening(one).join(" "))),
            Format::Table | Format::Wide => happenings_table(&mut page, &happenings),
        }
    } else {
        let targets = ask_all(&agents, list).await?.given.concat();
        match args.output {
            Format::Json => page.sparse_objects("nodescope.v1.ProbeTarget", &targets)?,
            Format::Compact => page.lines(targets.iter().map(compact)),
            Format::Table => targets_table(&mut page, &targets, false),
            Format::Wide => targets_table(&mut page, &targets, true),
        }
    }
    page.print()?;
    Ok(ExitCode::SUCCESS)
}

/// What an agent knows of probes.
///
/// # Errors
/// When the agent fails.
pub async fn list(agent: &Agent) -> anyhow::Result<Vec<ProbeTarget>> {
    let mut client = ProbesClient::new(agent.channel().await?);
    match client.list_probes(ListProbesRequest {}).await {
        Ok(answer) => Ok(answer.into_inner().targets),
        Err(status) => bail!(refusal(agent, &status)),
    }
}

async fn timeline(
    agent: &Agent,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Vec<ProbeHappening>> {
    let mut client = ProbesClient::new(agent.channel().await?);
    let request = ProbeTimelineRequest {
        namespace: namespace.to_owned(),
        service: name.to_owned(),
    };
    match client.probe_timeline(request).await {
        Ok(answer) => Ok(answer.into_inner().happenings),
        Err(status) => bail!(refusal(agent, &status)),
    }
}

const COLUMNS: [Column; 15] = [
    Column::new("NODE").cut(12).leave(10),
    Column::new("KIND"),
    Column::new("TARGET").cut(16),
    Column::new("PORT"),
    Column::new("INTERVAL").leave(6),
    Column::new("LAST RESULT").cut(12),
    Column::new("LATENCY").leave(7),
    Column::new("SUCCESS").leave(8),
    Column::new("LAST SEEN").leave(9),
    Column::new("LOCAL(PROBE)").leave(11),
    Column::new("LOCAL(API)").leave(5),
    Column::new("PATH").cut(12).leave(4),
    Column::new("PERIOD").leave(3),
    Column::new("GAPS").leave(2),
    Column::new("WEIGHT").leave(1),
];
/// Columns of the narrow table.
const NARROW: usize = 11;

fn targets_table(page: &mut Page, targets: &[ProbeTarget], wide: bool) {
    if targets.is_empty() {
        page.say(
            "no probes: none seen, and none that the API asks for",
            Tone::Plain,
        );
        return;
    }
    let columns = if wide { COLUMNS.len() } else { NARROW };
    let rows: Vec<Entry> = targets
        .iter()
        .map(|target| {
            let mut cells = row(target);
            cells.truncate(columns);
            Entry {
                tone: tone(target),
                ..Entry::new(cells)
            }
        })
        .collect();
    page.table(&COLUMNS[..columns], &rows);
}

/// What fails, is absent or contradicts the API stands out.
fn tone(target: &ProbeTarget) -> Option<Tone> {
    match (target.presence.as_str(), target.result.as_str()) {
        ("absent", _) | (_, "failure" | "timeout") => Some(Tone::Bad),
        _ if target.agrees == Some(false) => Some(Tone::Bad),
        ("never-seen", _) => Some(Tone::Unanswered),
        _ => None,
    }
}

/// One line a target.
fn compact(target: &ProbeTarget) -> String {
    let cells = row(target);
    format!(
        "{} {} {} {} {} {} {}",
        cells[0], cells[1], cells[2], cells[3], cells[5], cells[6], cells[7]
    )
}

fn row(target: &ProbeTarget) -> Vec<String> {
    let none = || "-".to_owned();
    let name = match (target.service.as_str(), target.pod.as_str()) {
        ("", "") if target.port == 10256 => "kube-proxy".to_owned(),
        ("", "") => none(),
        ("", pod) => format!("{}/{pod}:{}", target.namespace, target.container),
        (service, _) => format!("{}/{service}", target.namespace),
    };
    let port = match target.protocol.as_str() {
        "" => target.port.to_string(),
        protocol => format!("{}/{protocol}", target.port),
    };
    let last = match (target.presence.as_str(), target.result.as_str()) {
        ("absent", "") => "ABSENT".to_owned(),
        ("absent", result) => format!("ABSENT (was {result} {})", target.status),
        (_, "") => target.presence.clone(),
        (_, result) => format!("{result} {}", target.status),
    };
    let number = |number: Option<u64>| number.map_or_else(none, |number| number.to_string());
    let local = match (target.local_endpoints, target.agrees) {
        (Some(local), Some(false)) => format!("{local} (DISAGREES)"),
        (local, _) => number(local),
    };
    let path = Some(&target.path).filter(|path| !path.is_empty());
    vec![
        target.node_name.clone(),
        target.kind.clone(),
        name,
        port,
        span(target.interval.as_ref()),
        last,
        span(target.latency.as_ref()),
        target
            .success_ratio
            .map_or_else(none, |ratio| format!("{:.0}%", ratio * 100.0)),
        time::short(target.last_seen.as_ref()),
        local,
        number(target.api_local_endpoints),
        path.cloned().unwrap_or_else(none),
        span(target.period.as_ref()),
        target.missing.to_string(),
        number(target.weight),
    ]
}

/// A duration in the unit that suits it.
fn span(duration: Option<&prost_types::Duration>) -> String {
    let Some(duration) = duration.and_then(|one| std::time::Duration::try_from(*one).ok()) else {
        return "-".to_owned();
    };
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.1}ms", seconds * 1000.0)
    } else {
        format!("{seconds:.1}s")
    }
}

fn happenings_table(page: &mut Page, happenings: &[ProbeHappening]) {
    if happenings.is_empty() {
        page.say(
            "nothing has happened to it since the agent started, or no such service",
            Tone::Plain,
        );
        return;
    }
    const COLUMNS: [Column; 4] = [
        Column::new("TIME"),
        Column::new("NODE").cut(12),
        Column::new("WHAT"),
        Column::new("DETAIL").wrap(),
    ];
    let rows = happenings.iter().map(|one| Entry::new(happening(one)));
    page.table(&COLUMNS, &rows.collect::<Vec<_>>());
}

fn happening(one: &ProbeHappening) -> Vec<String> {
    vec![
        time::long(one.time.as_ref()),
        one.node_name.clone(),
        one.what.clone(),
        one.detail.clone(),
    ]
}

#[cfg(test)]
#[path = "probes_tests.rs"]
mod tests;
