//! `nodescope probes`: who asks whom for its health, and what the answer is.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;

use super::agents::{Agent, ask_all, refusal};
use super::servers::Servers;
use super::table::Table;
use super::time;
use crate::sink::json;
use crate::sink::proto::node::probes_client::ProbesClient;
use crate::sink::proto::node::{
    ListProbesRequest, ProbeHappening, ProbeTarget, ProbeTimelineRequest,
};

/// Flags of `probes`.
#[derive(clap::Args, Debug)]
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

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// One JSON object a line
    Json,
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
    let mut text = Vec::new();
    if let Some((namespace, name)) = &args.timeline {
        let asked = ask_all(&agents, async |to| timeline(to, namespace, name).await);
        let mut happenings = asked.await?.given.concat();
        happenings.sort_by_key(|one| one.time.map(|time| (time.seconds, time.nanos)));
        if args.output == Format::Json {
            for one in &happenings {
                json::write("nodescope.v1.ProbeHappening", one, &mut text)?;
                text.push(b'\n');
            }
        } else {
            text.extend(happenings_page(&happenings).into_bytes());
        }
    } else {
        let targets = ask_all(&agents, list).await?.given.concat();
        if args.output == Format::Json {
            for one in &targets {
                json::write("nodescope.v1.ProbeTarget", one, &mut text)?;
                text.push(b'\n');
            }
        } else {
            text.extend(targets_page(&targets, args.output == Format::Wide).into_bytes());
        }
    }
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn list(agent: &Agent) -> anyhow::Result<Vec<ProbeTarget>> {
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

const HEADER: [&str; 15] = [
    "NODE",
    "KIND",
    "TARGET",
    "PORT",
    "INTERVAL",
    "LAST RESULT",
    "LATENCY",
    "SUCCESS",
    "LAST SEEN",
    "LOCAL(PROBE)",
    "LOCAL(API)",
    "PATH",
    "PERIOD",
    "GAPS",
    "WEIGHT",
];
/// Columns of the narrow table.
const NARROW: usize = 11;

fn targets_page(targets: &[ProbeTarget], wide: bool) -> String {
    if targets.is_empty() {
        return "no probes: none seen, and none that the API asks for\n".to_owned();
    }
    let columns = if wide { HEADER.len() } else { NARROW };
    let rows: Vec<Vec<String>> = targets
        .iter()
        .map(|target| row(target).into_iter().take(columns).collect())
        .collect();
    page(&HEADER[..columns], &rows)
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

fn happenings_page(happenings: &[ProbeHappening]) -> String {
    if happenings.is_empty() {
        return "nothing has happened to it since the agent started, or no such service\n"
            .to_owned();
    }
    let rows: Vec<Vec<String>> = happenings
        .iter()
        .map(|one| {
            vec![
                time::long(one.time.as_ref()),
                one.node_name.clone(),
                one.what.clone(),
                one.detail.clone(),
            ]
        })
        .collect();
    page(&["TIME", "NODE", "WHAT", "DETAIL"], &rows)
}

fn page(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::default();
    rows.iter().for_each(|row| table.fit(row));
    let mut text = table.line(header);
    text.push('\n');
    for row in rows {
        text.push_str(&table.line(row));
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[path = "probes_tests.rs"]
mod tests;
