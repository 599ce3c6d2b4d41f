//! `nodescope check`: one line a check, with its evidence.

use std::process::ExitCode;

use serde_json::json;

use super::check_agents;
use super::fit::Column;
use super::output::Format;
use super::page::{Entry, Page, Style};
use super::row::Tone;
use super::servers::Servers;
use crate::datapath::{self, Verdict};
use crate::insight::checks;
use crate::node::conntrack;

/// Flags of `check`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  nodescope check                      every check; the exit code is 1 when one fails
  nodescope check snat-port-headroom conntrack-headroom --full-at 80
  nodescope check --preflight          can the agent run here?
  nodescope check -o json | jq -r 'select(.verdict == \"FAIL\") | .evidence'")]
pub struct Args {
    /// Checks to make [default: all]
    #[arg(value_name = "NAME", conflicts_with = "preflight")]
    names: Vec<String>,
    /// Percent of source ports, conntrack entries or pod addresses from which on they count as full
    #[arg(long, value_name = "PERCENT", default_value_t = checks::FULL_PERCENT,
          value_parser = clap::value_parser!(u32).range(1..=100), conflicts_with = "preflight")]
    full_at: u32,
    /// Can the agent run on this kernel, with these capabilities?
    #[arg(long)]
    preflight: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    servers: Servers,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// Could not be told.
    Unknown,
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub name: String,
    /// What was found.
    pub outcome: Outcome,
    /// What it was told by; for a failure also the mend.
    pub evidence: String,
    /// What each node found, of a check that agents make.
    pub nodes: Vec<NodeFinding>,
}

/// What one node found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFinding {
    /// The node, or the address of an agent that did not say.
    pub node: String,
    /// What was found.
    pub outcome: Outcome,
    /// What it was told by.
    pub evidence: String,
}

/// Makes the checks that are asked for: of this machine, or by its agents.
///
/// # Errors
/// When no agent answers, a check is none, or nobody reads the output.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let findings = if args.preflight {
        preflight()
    } else {
        super::block_on(async {
            let agents = args.servers.resolve().await?;
            check_agents::run(&agents, &args.names, args.full_at).await
        })?
    };
    report(&findings, args.output)
}

fn preflight() -> Vec<Finding> {
    let finding = |item: datapath::PreflightItem| Finding {
        name: item.name.to_owned(),
        outcome: match item.verdict {
            Verdict::Pass => Outcome::Pass,
            Verdict::Fail => Outcome::Fail,
            Verdict::Unknown => Outcome::Unknown,
        },
        evidence: item.evidence,
        nodes: Vec::new(),
    };
    let preflight = datapath::preflight();
    let mut findings: Vec<Finding> = preflight.items.into_iter().map(finding).collect();
    findings.push(nat_source(preflight.nat_off));
    findings
}

/// Where `--nat-source auto` would take translations from.
fn nat_source(unread: Option<String>) -> Finding {
    let (outcome, evidence) = match unread {
        None => (Outcome::Pass, "skb: read from packets".to_owned()),
        Some(why) => match conntrack::probe() {
            Ok(()) => (
                Outcome::Pass,
                format!("netlink: conntrack's events; not read from packets: {why}"),
            ),
            Err(error) => (
                Outcome::Unknown,
                format!("none: not read from packets: {why}; {error}"),
            ),
        },
    };
    Finding {
        name: "nat-source".to_owned(),
        outcome,
        evidence,
        nodes: Vec::new(),
    }
}

/// Prints findings; the exit code is 1 when one of them is a failure.
///
/// # Errors
/// When nobody reads the output.
pub fn report(findings: &[Finding], output: Format) -> anyhow::Result<ExitCode> {
    let mut page = Page::new(Style::of_stdout());
    match output {
        Format::Json => page.lines(findings.iter().map(|one| json(one).to_string())),
        Format::Compact => page.lines(findings.iter().map(compact)),
        Format::Table | Format::Wide => table(&mut page, findings),
    }
    page.print()?;
    let failed = findings
        .iter()
        .any(|finding| finding.outcome == Outcome::Fail);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn json(finding: &Finding) -> serde_json::Value {
    let mut value = json!({
        "name": finding.name,
        "verdict": finding.outcome.word(),
        "evidence": finding.evidence,
    });
    if !finding.nodes.is_empty() {
        let nodes = finding.nodes.iter().map(|node| {
            json!({
                "node": node.node,
                "verdict": node.outcome.word(),
                "evidence": node.evidence,
            })
        });
        value["nodes"] = nodes.collect();
    }
    value
}

/// A line a check; what each of several nodes found is below it.
fn table(page: &mut Page, findings: &[Finding]) {
    let entry = |finding: &Finding| Entry {
        tone: Some(finding.outcome.tone()),
        first_only: true,
        // What a single node found is the line itself.
        below: match finding.nodes.as_slice() {
            [] | [_] => Vec::new(),
            nodes => nodes
                .iter()
                .map(|one| format!("  {}: {}: {}", one.node, one.outcome.word(), one.evidence))
                .collect(),
        },
        ..Entry::new(vec![
            finding.outcome.word().to_owned(),
            finding.name.clone(),
            finding.evidence.clone(),
        ])
    };
    let columns = [Column::new(""), Column::new(""), Column::new("").wrap()];
    page.list(&columns, &findings.iter().map(entry).collect::<Vec<_>>());
}

/// One line a check, without its evidence; of several nodes those that decided.
fn compact(finding: &Finding) -> String {
    let decided = finding
        .nodes
        .iter()
        .filter(|node| node.outcome == finding.outcome);
    let names: Vec<&str> = decided.map(|node| node.node.as_str()).collect();
    let line = format!(
        "{} {} {}",
        finding.outcome.word(),
        finding.name,
        names.join(",")
    );
    line.trim_end().to_owned()
}

impl Outcome {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Pass => Tone::Good,
            Self::Fail => Tone::Bad,
            Self::Unknown => Tone::Unanswered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{same, same_pages};
    use super::*;

    #[test]
    fn one_line_a_check_with_its_evidence() {
        let finding = |name: &str, outcome, evidence: &str| Finding {
            name: name.to_owned(),
            outcome,
            evidence: evidence.to_owned(),
            nodes: Vec::new(),
        };
        let findings = [
            finding("btf", Outcome::Pass, "/sys/kernel/btf/vmlinux"),
            finding("tcx", Outcome::Unknown, "not tried"),
        ];
        let wanted = "PASS     btf  /sys/kernel/btf/vmlinux\nUNKNOWN  tcx  not tried\n";
        let shown = |colour| {
            let mut page = Page::new(Style {
                colour,
                width: None,
            });
            table(&mut page, &findings);
            page.text().to_owned()
        };
        assert_eq!(shown(false), wanted);
        assert!(shown(true).starts_with("\x1b[32mPASS\x1b[0m     btf"));
    }

    #[test]
    fn pages_as_they_were() {
        let node = |node: &str, outcome| NodeFinding {
            node: node.to_owned(),
            outcome,
            evidence: format!("what {node} says"),
        };
        let finding = Finding {
            name: "conntrack-headroom".to_owned(),
            outcome: Outcome::Fail,
            evidence: "fails on 1 of 2 nodes; node-1: 262000 of 262144 entries are in use; raise \
                       net.netfilter.nf_conntrack_max"
                .to_owned(),
            nodes: vec![node("node-0", Outcome::Pass), node("node-1", Outcome::Fail)],
        };
        same_pages("check", |page| table(page, std::slice::from_ref(&finding)));
        same("check-compact", &compact(&finding));
        same("check-json", &json(&finding).to_string());
    }
}
