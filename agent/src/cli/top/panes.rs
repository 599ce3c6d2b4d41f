//! The lists that can be looked at, as cells.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::SystemTime;

use super::flows::{Flows, Known, Rate};

/// A list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    /// Connections.
    Connections,
    /// Pods, with what they carry.
    Pods,
    /// Translations.
    Nat,
    /// Health probes.
    Probes,
    /// Packets that died.
    Drops,
}

impl Pane {
    /// In the order of their keys.
    pub(super) const ALL: [Self; 5] = [
        Self::Connections,
        Self::Pods,
        Self::Nat,
        Self::Probes,
        Self::Drops,
    ];

    /// As its tab says.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Connections => "Connections",
            Self::Pods => "Pods",
            Self::Nat => "NAT",
            Self::Probes => "Probes",
            Self::Drops => "Drops",
        }
    }

    /// Names of the columns.
    pub(super) fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Connections => &[
                "BYTES/S",
                "PACKETS/S",
                "BYTES",
                "PROTO",
                "CLASS",
                "SOURCE",
                "DESTINATION",
                "NODE",
                "STATE",
            ],
            Self::Pods => &["BYTES/S", "PACKETS/S", "BYTES", "CONNECTIONS", "POD"],
            Self::Nat => &[
                "BYTES/S", "KIND", "CAUSE", "EXPECTED", "BEFORE", "AFTER", "SOURCE", "NODE",
            ],
            Self::Probes => &[
                "AGE", "KIND", "RESULT", "STATUS", "LATENCY", "TARGET", "SERVICE", "NODE",
            ],
            Self::Drops => &[
                "PACKETS",
                "REASON",
                "HOOK",
                "INTERFACE",
                "SOURCE",
                "DESTINATION",
                "NODE",
            ],
        }
    }
}

/// A line of a list.
#[derive(Debug)]
pub(super) struct Line {
    /// Which it is, whatever place it has.
    pub(super) key: (String, String),
    /// Its cells.
    pub(super) cells: Vec<String>,
    /// What numbers sort by, in the places of their cells.
    weights: Vec<Option<f64>>,
    /// Something is wrong with it.
    pub(super) bad: bool,
    /// It is over.
    pub(super) over: bool,
}

impl Line {
    fn new(key: &(String, String), cells: Vec<(String, Option<f64>)>) -> Self {
        let (cells, weights) = cells.into_iter().unzip();
        Self {
            key: key.clone(),
            cells,
            weights,
            bad: false,
            over: false,
        }
    }

    fn matches(&self, filter: &str) -> bool {
        let filter = filter.to_lowercase();
        let mut words = filter.split_whitespace();
        words.all(|word| {
            self.cells
                .iter()
                .any(|cell| cell.to_lowercase().contains(word))
        })
    }

    /// Numbers the largest first, texts by the alphabet.
    fn compare(&self, other: &Self, column: usize) -> Ordering {
        let number = |line: &Self| line.weights.get(column).copied().flatten();
        let by = match (number(self), number(other)) {
            (Some(one), Some(other)) => other.total_cmp(&one),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.cells.get(column).cmp(&other.cells.get(column)),
        };
        by.then_with(|| self.key.cmp(&other.key))
    }
}

/// The lines of a list that match `filter`, sorted by a column.
pub(super) fn lines(
    flows: &Flows,
    pane: Pane,
    filter: &str,
    (column, reversed): (usize, bool),
    now: SystemTime,
) -> Vec<Line> {
    let each = flows.all.iter();
    let mut lines: Vec<Line> = match pane {
        Pane::Connections => each
            .filter(|(_, known)| known.event != "drop")
            .map(|(key, known)| connection(key, known, now))
            .collect(),
        Pane::Pods => pods(flows, now),
        Pane::Nat => each
            .filter(|(_, known)| is_translated(known))
            .map(|(key, known)| translation(key, known, now))
            .collect(),
        Pane::Probes => each
            .filter(|(_, known)| known.fields.contains_key("probe"))
            .map(|(key, known)| probe(key, known, now))
            .collect(),
        Pane::Drops => each
            .filter(|(_, known)| known.event == "drop")
            .map(|(key, known)| dropped(key, known))
            .collect(),
    };
    lines.retain(|line| line.matches(filter));
    lines.sort_by(|one, other| match reversed {
        true => other.compare(one, column),
        false => one.compare(other, column),
    });
    lines
}

fn is_translated(known: &Known) -> bool {
    known.event != "drop" && !matches!(known.word(&["nat", "kind"]), "none" | "-")
}

fn connection(key: &(String, String), known: &Known, now: SystemTime) -> Line {
    let rate = known.rate(now);
    let state = match known.word(&["tcp", "state"]) {
        "-" => known.event.as_str(),
        state => state,
    };
    let mut line = Line::new(
        key,
        vec![
            amount(rate.bytes),
            amount(rate.packets),
            amount(known.totals.bytes),
            text(&known.protocol),
            text(&known.class),
            text(&known.ends.0),
            text(&known.ends.1),
            text(&known.node),
            text(state),
        ],
    );
    line.bad = matches!(state, "reset" | "refused");
    line.over = known.is_over();
    line
}

fn pods(flows: &Flows, now: SystemTime) -> Vec<Line> {
    let mut by_pod: HashMap<&str, (Rate, f64, f64)> = HashMap::new();
    // Both ends' nodes tell of a connection between two nodes: its node's own record counts.
    for known in flows.all.values().filter(|known| known.event != "drop") {
        for (place, pod) in known.pods.iter().enumerate() {
            let Some(pod) = pod else { continue };
            if !is_of_its_node(known, place) {
                continue;
            }
            let sum = by_pod.entry(pod).or_default();
            sum.0 += known.rate(now);
            sum.1 += known.totals.bytes;
            sum.2 += if known.is_over() { 0.0 } else { 1.0 };
        }
    }
    let line = |(pod, (rate, bytes, connections)): (&str, (Rate, f64, f64))| {
        let cells = vec![
            amount(rate.bytes),
            amount(rate.packets),
            amount(bytes),
            amount(connections),
            text(pod),
        ];
        Line::new(&(String::new(), pod.to_owned()), cells)
    };
    by_pod.into_iter().map(line).collect()
}

/// Whether the node that tells of a connection is that of its initiator (0) or destination (1): one
/// whose interface is among the hops.
fn is_of_its_node(known: &Known, place: usize) -> bool {
    use crate::sink::observer::structs;
    let hops = structs::list(&known.fields, &["hops"]);
    let hop = if place == 0 {
        hops.first()
    } else {
        hops.last()
    };
    let role = hop.and_then(structs::fields);
    role.is_none_or(|hop| structs::text(hop, &["role"]) != Some("uplink"))
}

fn translation(key: &(String, String), known: &Known, now: SystemTime) -> Line {
    let tuple = |which: &str| {
        let end = |ip: &str, port: &str| {
            let port = known.number(&["nat", which, port]).unwrap_or_default();
            format!("{}:{port}", known.word(&["nat", which, ip]))
        };
        format!("{} > {}", end("src", "sport"), end("dst", "dport"))
    };
    let fields = [
        known.word(&["nat", "kind"]),
        known.word(&["nat", "cause"]),
        known.word(&["nat", "expected"]),
    ];
    let mut cells = vec![amount(known.rate(now).bytes)];
    cells.extend(fields.map(text));
    cells.extend([
        text(&tuple("original")),
        text(&tuple("translated")),
        text(&known.ends.0),
        text(&known.node),
    ]);
    let mut line = Line::new(key, cells);
    line.bad = known.word(&["nat", "mismatch", "observed"]) != "-";
    line.over = known.is_over();
    line
}

fn probe(key: &(String, String), known: &Known, now: SystemTime) -> Line {
    let of = |name: &str| known.word(&["probe", name]);
    let age = now.duration_since(known.seen).unwrap_or_default();
    let status = match known.number(&["probe", "status"]) {
        Some(code) => format!("{code}"),
        None => of("status").to_owned(),
    };
    let latency = known.number(&["probe", "latency_seconds"]);
    let mut line = Line::new(
        key,
        vec![
            // The youngest first.
            (format!("{}s", age.as_secs()), Some(-age.as_secs_f64())),
            text(of("kind")),
            text(of("result")),
            text(&status),
            (
                latency.map_or("-".to_owned(), |seconds| format!("{:.1}ms", seconds * 1e3)),
                latency,
            ),
            text(&known.ends.1),
            text(of("service")),
            text(&known.node),
        ],
    );
    line.bad = matches!(of("result"), "failure" | "timeout");
    line
}

fn dropped(key: &(String, String), known: &Known) -> Line {
    let of = |name: &str| known.word(&["drop", name]);
    let mut line = Line::new(
        key,
        vec![
            amount(known.totals.packets),
            text(of("reason")),
            text(of("hook")),
            text(of("interface")),
            text(&known.ends.0),
            text(&known.ends.1),
            text(&known.node),
        ],
    );
    line.bad = true;
    line
}

fn text(text: &str) -> (String, Option<f64>) {
    (text.to_owned(), None)
}

/// A number with three digits, and what it sorts by.
fn amount(number: f64) -> (String, Option<f64>) {
    (short(number), Some(number))
}

/// Three digits and a unit of thousands.
pub(super) fn short(number: f64) -> String {
    let mut rest = number;
    for unit in ["", "k", "M", "G", "T"] {
        if rest < 999.5 || unit == "T" {
            return match rest {
                0.0 => "0".to_owned(),
                small if small < 9.95 && (small.fract() != 0.0 || !unit.is_empty()) => {
                    format!("{small:.1}{unit}")
                }
                more => format!("{more:.0}{unit}"),
            };
        }
        rest /= 1000.0;
    }
    String::new()
}
