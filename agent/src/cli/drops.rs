//! `nodescope drops`: packets that the kernel dropped, between whom, why and where.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::agents::{Agent, ask_all, refusal};
use super::failure::tell;
use super::nat::{Format, is_of, json, net};
use super::nat_rows::{Page, end, or_none};
use super::output::colour;
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
    #[command(flatten)]
    filters: Filters,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    servers: Servers,
}

/// Which losses. Values of one flag are alternatives, different flags must all fit.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    /// Either end is this pod: [NAMESPACE/]NAME-PREFIX, or NAMESPACE/ for all
    #[arg(long)]
    pub pod: Vec<String>,
    /// Either end is in this namespace
    #[arg(long, short)]
    pub namespace: Vec<String>,
    /// Either end has this address (or CIDR)
    #[arg(long, value_parser = net)]
    pub ip: Vec<IpNet>,
    /// The receiver has this port
    #[arg(long)]
    pub port: Vec<u16>,
    /// Protocol: tcp, udp, icmp, sctp
    #[arg(long)]
    pub protocol: Vec<String>,
    /// The kernel's reason, for example NETFILTER_DROP
    #[arg(long)]
    pub reason: Vec<String>,
}

impl Filters {
    /// Whether a loss is wanted.
    pub fn pass(&self, one: &DropReport) -> bool {
        let any = |list: &[String], fits: &dyn Fn(&String) -> bool| {
            list.is_empty() || list.iter().any(fits)
        };
        let pods = [&one.source_pod, &one.destination_pod];
        let ips = [&one.source, &one.destination];
        let in_namespace = |wanted: &String| {
            pods.iter().any(|pod| {
                pod.split_once('/')
                    .is_some_and(|(namespace, _)| namespace == wanted)
            })
        };
        let has = |net: &IpNet| {
            ips.iter()
                .any(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip)))
        };
        let speaks = |wanted: &String| {
            one.protocol
                .to_lowercase()
                .starts_with(&wanted.to_lowercase())
        };
        any(&self.pod, &|wanted| {
            pods.iter().any(|pod| is_of(pod, wanted))
        }) && any(&self.namespace, &in_namespace)
            && (self.ip.is_empty() || self.ip.iter().any(has))
            && (self.port.is_empty()
                || self
                    .port
                    .iter()
                    .any(|port| u32::from(*port) == one.destination_port))
            && any(&self.protocol, &speaks)
            && any(&self.reason, &|wanted| {
                wanted.eq_ignore_ascii_case(&one.reason)
            })
    }
}

/// Shows the losses; an agent that fails, or does not see them, is told about.
///
/// # Errors
/// When all agents fail.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let agents = args.servers.resolve().await?;
    let mut all = ask_all(&agents, list).await?.given.concat();
    all.retain(|one| args.filters.pass(one));
    all.sort_by_key(|one| std::cmp::Reverse(one.last.map(|at| (at.seconds, at.nanos))));
    if args.output == Format::Json {
        return json(DROP_REPORT, &all);
    }
    let mut page = Page::new(args.output == Format::Wide, colour());
    table(&mut page, &all, SystemTime::now());
    page.print()?;
    Ok(ExitCode::SUCCESS)
}

async fn list(agent: &Agent) -> anyhow::Result<Vec<DropReport>> {
    let mut client = DropsClient::new(agent.channel().await?);
    let answer = client.list(ListDropsRequest {}).await;
    let answer = answer
        .map_err(|status| refusal(agent, &status))?
        .into_inner();
    for line in remarks(&answer) {
        tell(&line);
    }
    Ok(answer.drops)
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
fn table(page: &mut Page, all: &[DropReport], now: SystemTime) {
    if all.is_empty() {
        page.say("no packet was dropped".to_owned(), Tone::Plain);
        return;
    }
    const HEADER: [&str; 11] = [
        "LAST",
        "REASON",
        "SOURCE",
        "DESTINATION",
        "PROTO",
        "PACKETS",
        "HOOK",
        "NODE",
        "BYTES",
        "FUNCTION",
        "SERVICE",
    ];
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            let mut cells = vec![
                ago(one, now),
                one.reason.clone(),
                host(&one.source_pod, &one.source, None),
                host(
                    &one.destination_pod,
                    &one.destination,
                    Some(one.destination_port).filter(|port| *port != 0),
                ),
                one.protocol.clone(),
                one.packets.to_string(),
                one.hook.clone(),
                or_none(&one.node),
            ];
            if page.wide {
                cells.extend([
                    one.bytes.to_string(),
                    or_none(&one.function),
                    or_none(&one.service),
                ]);
            }
            (cells, Tone::Bad)
        })
        .collect();
    let shown = if page.wide { HEADER.len() } else { 8 };
    page.columns(&HEADER[..shown], &rows);
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
mod tests {
    use super::*;

    fn loss() -> DropReport {
        DropReport {
            node: "node-1".to_owned(),
            reason: "NETFILTER_DROP".to_owned(),
            hook: "veth0 ingress".to_owned(),
            direction: "ingress".to_owned(),
            protocol: "TCP".to_owned(),
            source_pod: "shop/web-0".to_owned(),
            source: "10.244.0.15".to_owned(),
            destination: "10.1.2.3".to_owned(),
            destination_port: 443,
            packets: 3,
            bytes: 222,
            ..DropReport::default()
        }
    }

    #[test]
    fn flags_are_and_values_are_or() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut filters = Filters {
            pod: words(&["api", "web"]),
            reason: words(&["netfilter_drop"]),
            ..Filters::default()
        };
        assert!(filters.pass(&loss()));
        filters.port = vec![80];
        assert!(!filters.pass(&loss()));
        filters.port = vec![80, 443];
        filters.namespace = words(&["default"]);
        assert!(!filters.pass(&loss()));
    }

    #[test]
    fn a_line_says_between_whom_why_and_where() {
        let mut page = Page::new(false, false);
        table(&mut page, &[loss()], SystemTime::UNIX_EPOCH);
        let text = page.text();
        let line: Vec<_> = text
            .lines()
            .nth(1)
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        assert_eq!(
            line[2..],
            [
                "NETFILTER_DROP",
                "shop/web-0",
                "10.1.2.3:443",
                "TCP",
                "3",
                "veth0",
                "ingress",
                "node-1"
            ]
        );
    }

    #[test]
    fn a_kernel_without_reasons_is_told() {
        let answer = ListDropsResponse {
            node: "n".to_owned(),
            ..ListDropsResponse::default()
        };
        assert!(remarks(&answer)[0].contains("does not say why"));
        let off = ListDropsResponse {
            off: "no BTF".to_owned(),
            forgotten: 2,
            ..answer
        };
        let lines = remarks(&off);
        assert!(lines[0].ends_with("no BTF") && lines[1].contains("2 older"));
    }
}
