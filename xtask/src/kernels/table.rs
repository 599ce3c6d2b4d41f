//! What works where, as a table of Markdown, and its place in the README.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::guest::{Outcome, Report};

/// The README's part that is written here.
const BEGIN: &str = "<!-- kernels: written by `cargo xtask kernels --write` -->\n";
const END: &str = "<!-- /kernels -->\n";

/// Features and the tests that show each.
const FEATURES: [(&str, &[&str]); 13] = [
    (
        "programs load, within their budget",
        &["programs_stay_within_their_budget"],
    ),
    ("hooks by TCX, exact counts", &["tcx_counts_exactly"]),
    ("hooks by clsact, exact counts", &["clsact_counts_exactly"]),
    (
        "other people's filters stay and run",
        &["foreign_filters_of_a_clsact_qdisc_stay_and_run"],
    ),
    ("a bond counted once", &["a_bond_is_counted_once"]),
    (
        "hooks of a killed agent replaced",
        &["clsact_filters_of_a_killed_agent_are_replaced"],
    ),
    (
        "one agent after another misses nothing, by TCX",
        &["tcx_goes_on_after_a_restart"],
    ),
    (
        "one agent after another misses nothing, by clsact",
        &["clsact_goes_on_after_a_restart"],
    ),
    (
        "records taken out without loss",
        &["records_are_taken_out_without_loss"],
    ),
    (
        "what changed is told of, and no more",
        &["changes_are_told_once_a_round"],
    ),
    (
        "NAT from the packet, as conntrack has it",
        &["translations_are_what_conntrack_has"],
    ),
    (
        "NAT by netlink, as conntrack has it",
        &["translations_come_by_netlink"],
    ),
    (
        "dropped packets counted (reasons from 5.17 on)",
        &["dropped_packets_are_counted"],
    ),
];

/// What works where; a column is a kernel.
pub fn features(reports: &[Report]) -> String {
    let mut text = String::new();
    let mut row = |title: &str, cells: Vec<String>| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {title} | {} |", cells.join(" | "));
    };
    let each = |cell: &dyn Fn(&Report) -> String| reports.iter().map(cell).collect::<Vec<_>>();
    row("", each(&|report| short(&report.release)));
    row("---", each(&|_| "---".to_owned()));
    for (title, tests) in FEATURES {
        row(title, each(&|report| cell(report, tests)));
    }
    text
}

/// The same, and what the verifier had to do for it, which is another thing with every change.
pub fn table(reports: &[Report]) -> String {
    let mut text = features(reports);
    for program in programs(reports) {
        let cells = reports
            .iter()
            .map(|report| match report.verified.get(program) {
                Some(Some(number)) => number.to_string(),
                _ => "not told".to_owned(),
            });
        let cells: Vec<String> = cells.collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "| instructions verified: `{program}` | {} |",
            cells.join(" | ")
        );
    }
    text
}

fn short(release: &str) -> String {
    release.trim_end_matches("-cloud-amd64").to_owned()
}

fn cell(report: &Report, tests: &[&str]) -> String {
    let outcomes: Vec<Option<&Outcome>> =
        tests.iter().map(|test| report.tests.get(*test)).collect();
    if outcomes.iter().all(|one| *one == Some(&Outcome::Passed)) {
        return "yes".to_owned();
    }
    if outcomes.contains(&Some(&Outcome::Failed)) {
        return "**fails**".to_owned();
    }
    outcomes
        .into_iter()
        .find_map(|one| match one {
            Some(Outcome::Skipped(why)) => Some(format!("no: {why}")),
            _ => None,
        })
        .unwrap_or_else(|| "not tested".to_owned())
}

fn programs(reports: &[Report]) -> std::collections::BTreeSet<&str> {
    reports
        .iter()
        .flat_map(|report| report.verified.keys().map(String::as_str))
        .collect()
}

/// Puts the table into its place.
///
/// # Errors
/// The file has no such place, or cannot be written.
pub fn write(file: &Path, table: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let text = replaced(&text, table)
        .with_context(|| format!("{} has no place for the table", file.display()))?;
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_the_one_before() {
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        let once = replaced(&text, "| new |\n");
        assert_eq!(once, Some(format!("a\n{BEGIN}\n| new |\n\n{END}b\n")));
        let again = once.as_deref().and_then(|text| replaced(text, "| new |\n"));
        assert_eq!(again, once);
        assert_eq!(replaced("no place", ""), None);
    }

    #[test]
    fn a_cell_says_why_not() {
        let mut report = Report::default();
        let tests = ["tcx_counts_exactly"];
        assert_eq!(cell(&report, &tests), "not tested");
        let why = Outcome::Skipped("no TCX".to_owned());
        report.tests.insert(tests[0].to_owned(), why);
        assert_eq!(cell(&report, &tests), "no: no TCX");
        report.tests.insert(tests[0].to_owned(), Outcome::Passed);
        assert_eq!(cell(&report, &tests), "yes");
    }
}
