//! Translations and ports as tables.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use super::row::Tone;
use super::table::Table;
use crate::sink::proto::node::{NatTuple, SnatPorts, Translation};

const NONE: &str = "-";

/// Pods named for a destination in the narrow table.
const PODS: usize = 3;

/// Mismatches explained below the table: after so many the reason is known.
const EXPLAINED: usize = 10;

/// Lines to print.
pub struct Page {
    pub(super) wide: bool,
    colour: bool,
    table: Table,
    lines: Vec<(String, Tone)>,
}

impl Page {
    /// An empty one.
    pub fn new(wide: bool, colour: bool) -> Self {
        Self {
            wide,
            colour,
            table: Table::default(),
            lines: Vec::new(),
        }
    }

    /// Adds a table.
    pub(super) fn columns(&mut self, header: &[&str], rows: &[(Vec<String>, Tone)]) {
        rows.iter().for_each(|(row, _)| self.table.fit(row));
        self.lines.push((self.table.line(header), Tone::Header));
        for (row, tone) in rows {
            self.lines.push((self.table.line(row), *tone));
        }
    }

    /// Adds a line.
    pub(super) fn say(&mut self, line: String, tone: Tone) {
        self.lines.push((line, tone));
    }

    /// The text, with colour where it is wanted.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (line, tone) in &self.lines {
            let code = if self.colour { tone.sgr() } else { "" };
            if code.is_empty() {
                text.push_str(line);
            } else {
                text.push_str(&format!("\x1b[{code}m{line}\x1b[0m"));
            }
            text.push('\n');
        }
        text
    }

    /// Prints it.
    ///
    /// # Errors
    /// When the reader is gone.
    pub fn print(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(self.text().as_bytes())?;
        out.flush()
    }
}

/// The table of translations, and below it both sides of each mismatch.
pub fn translations(page: &mut Page, all: &[Translation], now: SystemTime) {
    if all.is_empty() {
        page.say(
            "no open connection is translated (--all shows those that are not)".to_owned(),
            Tone::Plain,
        );
        return;
    }
    const HEADER: [&str; 14] = [
        "PROTO",
        "POD",
        "BEFORE",
        "AFTER",
        "CAUSE",
        "EXPECTED",
        "VERDICT",
        "AGE",
        "NODE",
        "SERVICE",
        "TO-POD",
        "SOURCE",
        "CONNECTION",
        "BECAUSE",
    ];
    let wide = page.wide;
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            let mut cells = vec![
                one.protocol.clone(),
                or_none(&one.source_pod),
                tuple(one.original.as_ref()),
                tuple(one.translated.as_ref()),
                one.cause.clone(),
                one.expected.clone(),
                verdict(one).to_owned(),
                age(one, now),
            ];
            if wide {
                cells.extend([
                    or_none(&one.node),
                    or_none(&one.service),
                    or_none(&one.destination_pod),
                    or_none(&one.source),
                    one.connection.clone(),
                    or_none(&one.configured),
                ]);
            }
            let tone = if one.mismatch { Tone::Bad } else { Tone::Plain };
            (cells, tone)
        })
        .collect();
    page.columns(if wide { &HEADER } else { &HEADER[..8] }, &rows);
    let mismatches: Vec<_> = all.iter().filter(|one| one.mismatch).collect();
    if mismatches.is_empty() {
        return;
    }
    page.say(String::new(), Tone::Plain);
    for one in mismatches.iter().take(EXPLAINED) {
        let line = format!(
            "mismatch {}: configured: {}; observed: {}",
            one.connection, one.configured, one.observed
        );
        page.say(line, Tone::Bad);
    }
    if let Some(more) = mismatches.len().checked_sub(EXPLAINED).filter(|n| *n > 0) {
        page.say(
            format!("and {more} more: -o wide shows why of each"),
            Tone::Bad,
        );
    }
}

/// The table of ports in use.
pub fn ports(page: &mut Page, all: &[SnatPorts]) {
    if all.is_empty() {
        page.say(
            "no open connection takes a source port of the node".to_owned(),
            Tone::Plain,
        );
        return;
    }
    let shown = if page.wide { usize::MAX } else { PODS };
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            let mut pods: Vec<String> = one
                .pods
                .iter()
                .take(shown)
                .map(|pods| format!("{} ({})", pods.pod, pods.connections))
                .collect();
            if let Some(more) = one.pods.len().checked_sub(shown).filter(|n| *n > 0) {
                pods.push(format!("and {more} more"));
            }
            let cells = vec![
                end(&one.address, one.port),
                one.protocol.clone(),
                one.ports.to_string(),
                one.from.clone(),
                or_none(&one.node),
                pods.join(", "),
            ];
            (cells, Tone::Plain)
        })
        .collect();
    let header = ["DESTINATION", "PROTO", "PORTS", "FROM", "NODE", "PODS"];
    page.columns(&header, &rows);
}

pub(super) fn or_none(text: &str) -> String {
    if text.is_empty() { NONE } else { text }.to_owned()
}

fn tuple(tuple: Option<&NatTuple>) -> String {
    tuple.map_or_else(
        || NONE.to_owned(),
        |tuple| {
            let (from, to) = (end(&tuple.src, tuple.sport), end(&tuple.dst, tuple.dport));
            format!("{from} -> {to}")
        },
    )
}

pub(super) fn end(ip: &str, port: u32) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// What is to be thought of it.
fn verdict(one: &Translation) -> &'static str {
    match (
        one.mismatch,
        one.expected.as_str(),
        one.configured.is_empty(),
    ) {
        (true, _, _) => "MISMATCH",
        (false, "unknown", true) => NONE,
        (false, "unknown", false) => "unknown",
        (false, _, _) => "as configured",
    }
}

fn age(one: &Translation, now: SystemTime) -> String {
    let started = one.started.and_then(|at| SystemTime::try_from(at).ok());
    let age = started.map(|at| now.duration_since(at).unwrap_or_default());
    age.map_or_else(
        || NONE.to_owned(),
        |age| humantime::format_duration(Duration::from_secs(age.as_secs())).to_string(),
    )
}
