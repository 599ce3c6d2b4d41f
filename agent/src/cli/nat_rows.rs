//! Translations and ports as tables.

use std::time::{Duration, SystemTime};

use super::fit::Column;
use super::page::{Entry, NONE, Page, or_none};
use super::row::Tone;
use crate::sink::proto::node::{NatTuple, SnatPorts, Translation};

/// Pods named for a destination in the narrow table.
const PODS: usize = 3;

/// Mismatches explained below the table: after so many the reason is known.
const EXPLAINED: usize = 10;

/// The table of translations, and below it both sides of each mismatch.
pub fn translations(page: &mut Page, all: &[Translation], wide: bool, now: SystemTime) {
    if all.is_empty() {
        page.say(
            "no open connection is translated (--all shows those that are not)",
            Tone::Plain,
        );
        return;
    }
    const COLUMNS: [Column; 14] = [
        Column::new("PROTO").leave(8),
        Column::new("POD").cut(16),
        Column::new("BEFORE").cut(24),
        Column::new("AFTER").cut(24),
        Column::new("CAUSE").leave(10),
        Column::new("EXPECTED").leave(7),
        Column::new("VERDICT"),
        Column::new("AGE").leave(6),
        Column::new("NODE").cut(12).leave(9),
        Column::new("SERVICE").cut(12).leave(5),
        Column::new("TO-POD").cut(16).leave(4),
        Column::new("SOURCE").leave(1),
        Column::new("CONNECTION").leave(2),
        Column::new("BECAUSE").cut(20).leave(3),
    ];
    let several = all.iter().any(|one| one.node != all[0].node);
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
            if wide || several {
                cells.push(or_none(&one.node));
            }
            if wide {
                cells.extend([
                    or_none(&one.service),
                    or_none(&one.destination_pod),
                    or_none(&one.source),
                    one.connection.clone(),
                    or_none(&one.configured),
                ]);
            }
            let tone = if one.mismatch { Tone::Bad } else { Tone::Plain };
            Entry::toned(cells, tone)
        })
        .collect();
    let columns = match (wide, several) {
        (true, _) => &COLUMNS[..],
        (false, true) => &COLUMNS[..9],
        (false, false) => &COLUMNS[..8],
    };
    page.table(columns, &rows);
    let mismatches: Vec<_> = all.iter().filter(|one| one.mismatch).collect();
    if mismatches.is_empty() {
        return;
    }
    page.gap();
    for one in mismatches.iter().take(EXPLAINED) {
        let line = format!(
            "mismatch {}: configured: {}; observed: {}",
            one.connection, one.configured, one.observed
        );
        page.say(&line, Tone::Bad);
    }
    if let Some(more) = mismatches.len().checked_sub(EXPLAINED).filter(|n| *n > 0) {
        page.say(
            &format!("and {more} more: -o wide shows why of each"),
            Tone::Bad,
        );
    }
}

/// The table of ports in use.
pub fn ports(page: &mut Page, all: &[SnatPorts], wide: bool) {
    if all.is_empty() {
        page.say(
            "no open connection takes a source port of the node",
            Tone::Plain,
        );
        return;
    }
    let shown = if wide { usize::MAX } else { PODS };
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
            Entry::new(cells)
        })
        .collect();
    const COLUMNS: [Column; 6] = [
        Column::new("DESTINATION").cut(20),
        Column::new("PROTO"),
        Column::new("PORTS"),
        Column::new("FROM").leave(2),
        Column::new("NODE").cut(12).leave(1),
        Column::new("PODS").wrap(),
    ];
    page.table(&COLUMNS, &rows);
}

/// One line a translation.
pub fn compact_translation(one: &Translation) -> String {
    format!(
        "{} {} {} {} => {} {} {}",
        or_none(&one.node),
        one.protocol,
        or_none(&one.source_pod),
        tuple(one.original.as_ref()),
        tuple(one.translated.as_ref()),
        one.cause,
        verdict(one),
    )
}

/// One line a destination.
pub fn compact_ports(one: &SnatPorts) -> String {
    format!(
        "{} {} -> {}/{} {} ports, {} pods",
        or_none(&one.node),
        one.from,
        end(&one.address, one.port),
        one.protocol,
        one.ports,
        one.pods.len()
    )
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
