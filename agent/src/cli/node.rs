//! `nodescope node`: the node behind an agent.

use std::net::IpAddr;
use std::process::ExitCode;

use super::agents::{Agent, ask_all, refusal};
use super::fit::Column;
use super::node_pods;
use super::output::Format;
use super::page::{Entry, Page, Style, or_none};
use super::row::Tone;
use super::servers::Servers;
use super::time;
use crate::sink::json;
use crate::sink::proto::node::node_client::NodeClient;
use crate::sink::proto::node::{DescribeRequest, DescribeResponse, HookCounts, Interface};

/// Flags of `node`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  nodescope node                      this node, or every node of the cluster
  nodescope node --node 'pool1-*' -o compact
                                      one line a node
  nodescope node --classify 10.0.0.10 what kind of address that is, to each node")]
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

/// Shows the nodes; one that fails is told about.
///
/// # Errors
/// When all fail.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let agents = args.servers.resolve().await?;
    let nodes = ask_all(&agents, describe).await?.given;
    let mut page = Page::new(Style::of_stdout());
    if !args.classify.is_empty() {
        classify(&mut page, &nodes, &args.classify, args.output)?;
        page.print()?;
        return Ok(ExitCode::SUCCESS);
    }
    match args.output {
        Format::Json => page.sparse_objects(json::DESCRIBE, &nodes)?,
        Format::Compact => page.lines(nodes.iter().map(compact)),
        Format::Table | Format::Wide => {
            for (index, node) in nodes.iter().enumerate() {
                if index > 0 {
                    page.gap();
                }
                show(&mut page, node, args.output == Format::Wide);
            }
        }
    }
    page.print()?;
    Ok(ExitCode::SUCCESS)
}

fn classify(
    page: &mut Page,
    nodes: &[DescribeResponse],
    addresses: &[IpAddr],
    format: Format,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for node in nodes {
        for ip in addresses {
            let (class, range) = node_pods::class_of(node, *ip)?;
            rows.push([ip.to_string(), class, range, node.name.clone()]);
        }
    }
    match format {
        Format::Json => page.lines(rows.iter().map(|[ip, class, range, node]| {
            serde_json::json!({"ip": ip, "class": class, "range": range, "node": node}).to_string()
        })),
        Format::Compact => page.lines(
            rows.iter()
                .map(|[ip, class, _, node]| format!("{ip} {class} on {node}")),
        ),
        Format::Table | Format::Wide => {
            let columns = ["ADDRESS", "CLASS", "RANGE"].map(Column::new);
            let columns = [&columns[..], &[Column::new("NODE").cut(12)]].concat();
            let rows = rows.into_iter().map(|row| Entry::new(row.to_vec()));
            page.table(&columns, &rows.collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// What an agent knows of its node.
///
/// # Errors
/// When the agent fails.
pub async fn describe(agent: &Agent) -> anyhow::Result<DescribeResponse> {
    let mut client = NodeClient::new(agent.channel().await?);
    let answer = client.describe(DescribeRequest {}).await;
    let answer = answer.map_err(|status| refusal(agent, &status))?;
    Ok(answer.into_inner())
}

/// One line a node.
fn compact(node: &DescribeResponse) -> String {
    let attached = node
        .interfaces
        .iter()
        .filter(|one| !one.attached.is_empty());
    format!(
        "{} {}, kernel {}, agent {}, {} interfaces watched, {} pods, API {}",
        node.name,
        or_none(&node.network_model),
        or_none(&node.kernel),
        or_none(&node.version),
        attached.count(),
        node.pods.len(),
        node.api.as_ref().map_or("none", |api| &api.state),
    )
}

fn show(page: &mut Page, node: &DescribeResponse, wide: bool) {
    page.list(&[Column::new(""), Column::new("").wrap()], &facts(node));
    page.gap();
    let rows: Vec<_> = node
        .interfaces
        .iter()
        .map(|interface| Entry {
            tone: (!interface.error.is_empty()).then_some(Tone::Bad),
            ..Entry::new(row(interface, wide))
        })
        .collect();
    page.table(if wide { &COLUMNS } else { &COLUMNS[..9] }, &rows);
    if node.interfaces.is_empty() {
        page.say(
            "no interfaces are watched: see --interfaces of the agent",
            Tone::Plain,
        );
    }
    if !node.pods.is_empty() {
        page.gap();
        node_pods::table(page, &node.pods);
    }
}

fn facts(node: &DescribeResponse) -> Vec<Entry> {
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
    let entry = |pair: [String; 2]| Entry {
        tone: Some(Tone::Header),
        first_only: true,
        ..Entry::new(pair.to_vec())
    };
    facts.into_iter().map(entry).collect()
}

const COLUMNS: [Column; 13] = [
    Column::new("INTERFACE"),
    Column::new("ROLE"),
    Column::new("KIND").leave(6),
    Column::new("MASTER").leave(5),
    Column::new("ATTACHED").cut(16),
    Column::new("PODS").cut(24),
    Column::new("IN(PACKETS)").leave(8),
    Column::new("OUT(PACKETS)").leave(7),
    Column::new("UNATTRIBUTED").leave(9),
    Column::new("INDEX").leave(1),
    Column::new("ADDRESSES").cut(16).leave(4),
    Column::new("IN(BYTES)").leave(3),
    Column::new("OUT(BYTES)").leave(2),
];

fn row(interface: &Interface, wide: bool) -> Vec<String> {
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
        or_none(&interface.role),
        or_none(&interface.kind),
        or_none(&interface.master),
        attached,
        or_none(&pods.collect::<Vec<_>>().join(", ")),
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
            or_none(&interface.addresses.join(", ")),
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
