//! `nodescope node`: the node behind an agent.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;

use super::agents::{Agent, ask_all, refusal};
use super::node_pods;
use super::servers::Servers;
use super::table::Table;
use super::time;
use crate::sink::json;
use crate::sink::proto::node::node_client::NodeClient;
use crate::sink::proto::node::{DescribeRequest, DescribeResponse, HookCounts, Interface};

/// Flags of `node`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Say what kind of address each of these is, instead: pod, node, service, load-balancer,
    /// vnet, link-local, platform or external
    #[arg(long, value_name = "IP")]
    classify: Vec<IpAddr>,
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
    /// One JSON object a node
    Json,
}

/// Shows the nodes; one that fails is told about.
///
/// # Errors
/// When all fail.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let agents = args.servers.resolve().await?;
    let nodes = ask_all(&agents, describe).await?.given;
    if !args.classify.is_empty() {
        return classify(&nodes, &args.classify, args.output);
    }
    let mut out = std::io::stdout().lock();
    for (index, node) in nodes.iter().enumerate() {
        let mut text = Vec::new();
        if args.output == Format::Json {
            json::write(json::DESCRIBE, node, &mut text)?;
            text.push(b'\n');
        } else {
            if index > 0 {
                text.push(b'\n');
            }
            text.extend(page(node, args.output == Format::Wide).into_bytes());
        }
        out.write_all(&text)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn classify(
    nodes: &[DescribeResponse],
    addresses: &[IpAddr],
    format: Format,
) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    for node in nodes {
        for ip in addresses {
            let (class, range) = node_pods::class_of(node, *ip)?;
            rows.push([ip.to_string(), class, range, node.name.clone()]);
        }
    }
    let mut out = std::io::stdout().lock();
    if format == Format::Json {
        for [ip, class, range, node] in &rows {
            let line = serde_json::json!({"ip": ip, "class": class, "range": range, "node": node});
            writeln!(out, "{line}")?;
        }
    } else {
        let mut table = Table::default();
        rows.iter().for_each(|row| table.fit(row));
        writeln!(
            out,
            "{}",
            table.line(&["ADDRESS", "CLASS", "RANGE", "NODE"])
        )?;
        for row in &rows {
            writeln!(out, "{}", table.line(row))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn describe(agent: &Agent) -> anyhow::Result<DescribeResponse> {
    let mut client = NodeClient::new(agent.channel().await?);
    let answer = client.describe(DescribeRequest {}).await;
    let answer = answer.map_err(|status| refusal(agent, &status));
    Ok(answer.context("node")?.into_inner())
}

fn page(node: &DescribeResponse, wide: bool) -> String {
    let mut lines = facts(node);
    lines.push(String::new());
    let rows: Vec<_> = node
        .interfaces
        .iter()
        .map(|interface| row(interface, wide))
        .collect();
    let mut table = Table::default();
    rows.iter().for_each(|row| table.fit(row));
    let header: &[&str] = if wide { &WIDE } else { &WIDE[..9] };
    lines.push(table.line(header));
    lines.extend(rows.iter().map(|row| table.line(row)));
    if node.interfaces.is_empty() {
        lines.push("no interfaces are watched: see --interfaces of the agent".to_owned());
    }
    let pods = node_pods::table(&node.pods);
    if !pods.is_empty() {
        lines.push(String::new());
        lines.extend(pods);
    }
    lines.push(String::new());
    lines.join("\n")
}

fn facts(node: &DescribeResponse) -> Vec<String> {
    let mut table = Table::default();
    let mut facts: Vec<[String; 2]> = Vec::new();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.push([name.to_owned(), value]);
        }
    };
    fact("Node", node.name.clone());
    fact("Addresses", node.addresses.join(", "));
    fact("Network model", node.network_model.clone());
    for (index, evidence) in node.evidence.iter().enumerate() {
        fact(
            if index == 0 { "  because" } else { "  and" },
            evidence.clone(),
        );
    }
    fact("Pod ranges", node.pod_cidrs.join(", "));
    if let Some(room) = &node.pod_addresses {
        fact("Pod addresses", node_pods::addresses(room));
        fact("Pods", node_pods::places(room));
    }
    if let Some(config) = &node.masquerade {
        fact("Masquerade", node_pods::masquerade(config));
    }
    fact("Kernel", node.kernel.clone());
    let started = node.started.as_ref().map(|at| time::long(Some(at)));
    let agent = match started {
        Some(at) => format!("{}, since {at}", node.version),
        None => node.version.clone(),
    };
    fact("Agent", agent);
    fact("Translations from", node.nat_source.clone());
    if let Some(table) = node.flow_table {
        fact(
            "Flow table",
            format!("{} of {} entries", table.entries, table.limit),
        );
    }
    for (index, cost) in node.programs.iter().enumerate() {
        let mean = cost.nanoseconds.checked_div(cost.runs).unwrap_or(0);
        fact(
            if index == 0 { "Cost of hooks" } else { "  and" },
            format!("{} {mean} ns/packet, {} packets", cost.program, cost.runs),
        );
    }
    if let Some(api) = &node.api {
        let detail = if api.detail.is_empty() {
            String::new()
        } else {
            format!(" ({})", api.detail)
        };
        fact("Kubernetes API", format!("{}{detail}", api.state));
    }
    for note in &node.notes {
        fact("Note", note.clone());
    }
    facts.iter().for_each(|pair| table.fit(pair));
    facts.iter().map(|pair| table.line(pair)).collect()
}

const WIDE: [&str; 13] = [
    "INTERFACE",
    "ROLE",
    "KIND",
    "MASTER",
    "ATTACHED",
    "PODS",
    "IN(PACKETS)",
    "OUT(PACKETS)",
    "UNATTRIBUTED",
    "INDEX",
    "ADDRESSES",
    "IN(BYTES)",
    "OUT(BYTES)",
];

fn row(interface: &Interface, wide: bool) -> Vec<String> {
    let or_none = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    let pods = interface.pods.iter().map(|pod| {
        let name = if pod.name.is_empty() {
            String::new()
        } else {
            format!("{}/{} ", pod.namespace, pod.name)
        };
        format!("{name}{}", pod.ip)
    });
    let why_not = [&interface.error, &interface.beneath];
    let why_not = why_not.into_iter().find(|why| !why.is_empty());
    let attached = match (why_not, interface.attached.as_str()) {
        (Some(why), _) => format!("none: {why}"),
        (None, "") => "none".to_owned(),
        (None, attached) => attached.to_owned(),
    };
    let packets = |hook: Option<HookCounts>| count(hook.map(|hook| hook.packets));
    let bytes = |hook: Option<HookCounts>| count(hook.map(|hook| hook.bytes));
    let lost = [interface.ingress, interface.egress].into_iter().flatten();
    let mut cells = vec![
        interface.name.clone(),
        or_none(interface.role.clone()),
        or_none(interface.kind.clone()),
        or_none(interface.master.clone()),
        attached,
        or_none(pods.collect::<Vec<_>>().join(", ")),
        packets(interface.ingress),
        packets(interface.egress),
        match interface.beneath.is_empty() {
            true => lost
                .map(|hook| hook.unattributed_packets)
                .sum::<u64>()
                .to_string(),
            false => "-".to_owned(),
        },
    ];
    if wide {
        cells.extend([
            interface.index.to_string(),
            or_none(interface.addresses.join(", ")),
            bytes(interface.ingress),
            bytes(interface.egress),
        ]);
    }
    cells
}

fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
