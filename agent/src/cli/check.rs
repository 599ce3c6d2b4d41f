//! `nodescope check`: one line a check, with its evidence.

use std::io::Write as _;
use std::process::ExitCode;

use super::output::colour;
use super::table::Table;
use crate::datapath::{self, Verdict};

/// Flags of `check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Can the agent run on this kernel, with these capabilities?
    #[arg(long, required = true)]
    pub preflight: bool,
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
}

/// Makes the checks that are asked for.
///
/// # Errors
/// When nobody reads the output.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { preflight: true } = args else {
        anyhow::bail!("nothing to check: give --preflight");
    };
    let findings: Vec<Finding> = datapath::preflight()
        .into_iter()
        .map(|item| Finding {
            name: item.name.to_owned(),
            outcome: match item.verdict {
                Verdict::Pass => Outcome::Pass,
                Verdict::Fail => Outcome::Fail,
                Verdict::Unknown => Outcome::Unknown,
            },
            evidence: item.evidence,
        })
        .collect();
    report(&findings)
}

/// Prints findings; the exit code is 1 when one of them is a failure.
///
/// # Errors
/// When nobody reads the output.
pub fn report(findings: &[Finding]) -> anyhow::Result<ExitCode> {
    let text = page(findings, colour());
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
    }
    text
}

impl Outcome {
    fn word(self) -> &'static str {
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
