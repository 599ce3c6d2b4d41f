//! `nodescope check`: one line a check, with its evidence.

use std::io::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::json;

use super::check_agents;
use super::output::colour;
use super::servers::Servers;
use super::table::Table;
use crate::datapath::{self, Verdict};
use crate::insight::checks;
use crate::node::conntrack;

/// Flags of `check`.
#[derive(clap::Args, Debug)]
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

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line a check
    #[default]
    Table,
    /// One JSON object a check
    Json,
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
    let text = match output {
        Format::Table => page(findings, colour()),
        Format::Json => findings
            .iter()
            .map(|one| format!("{}\n", json(one)))
            .collect(),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
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

fn page(findings: &[Finding], colour: bool) -> String {
    let mut table = Table::default();
    let rows: Vec<[&str; 3]> = findings
        .iter()
        .map(|finding| {
            [
                finding.outcome.word(),
                &finding.name[..],
                &finding.evidence[..],
            ]
        })
        .collect();
    rows.iter().for_each(|row| table.fit(row));
    let mut text = String::new();
    for (row, finding) in rows.iter().zip(findings) {
        let line = table.line(row);
        if colour {
            // Only the first word, so that the evidence stays easy to read.
            let (word, rest) = line.split_at(finding.outcome.word().len());
            text.push_str(&format!(
                "\x1b[{}m{word}\x1b[0m{rest}\n",
                finding.outcome.sgr()
            ));
        } else {
            text.push_str(&line);
            text.push('\n');
        }
        // What a single node found is the line above.
        if finding.nodes.len() > 1 {
            for node in &finding.nodes {
                let word = node.outcome.word();
                text.push_str(&format!("  {}: {word}: {}\n", node.node, node.evidence));
            }
        }
    }
    text
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

    /// Green, red, yellow (ECMA-48 section 8.3.117).
    fn sgr(self) -> &'static str {
        match self {
            Self::Pass => "32",
            Self::Fail => "31",
            Self::Unknown => "33",
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(page(&findings, false), wanted);
        assert!(page(&findings, true).starts_with("\x1b[32mPASS\x1b[0m     btf"));
    }
}
