//! A path as a page and as JSON.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::fit::Column;
use super::page::{Entry, NONE, Page};
use super::path_end::{Outcome, Stop};
use super::path_join::Path;
use super::path_leg::{Counts, Leg, LegHop, Pair};
use super::row::Tone;

/// What became of it, and where it stops.
pub type End = (Outcome, Option<Stop>);

const COLUMNS: [Column; 9] = [
    Column::new("NODE").cut(12).leave(5),
    Column::new("INTERFACE"),
    Column::new("ROLE").leave(3),
    Column::new("WAY"),
    Column::new("TUPLE").cut(26),
    Column::new("PACKETS(OUT/BACK)"),
    Column::new("BYTES(OUT/BACK)").leave(2),
    Column::new("POD").cut(16).leave(4),
    Column::new("CONNECTION").leave(1),
];

/// A line a hop, translations and borders between nodes in between.
pub fn show(page: &mut Page, path: &Path, (outcome, stop): &End, wide: bool) {
    let (Some(first), Some(last)) = (path.legs.first(), path.legs.last()) else {
        return;
    };
    let mut rows = Vec::new();
    for (index, leg) in path.legs.iter().enumerate() {
        if index > 0 {
            rows.push(note("  ~ network between the nodes".to_owned()));
        }
        leg_rows(leg, &mut rows, wide);
    }
    let state = first.state.as_deref().unwrap_or(NONE);
    let line = format!(
        "{} {} -> {}  {}, {state}",
        first.protocol, first.source, last.destination, first.class
    );
    page.say(&line, Tone::Header);
    page.table(if wide { &COLUMNS } else { &COLUMNS[..8] }, &rows);
    page.say(
        &format!("Far end sees {}", last.translated.source),
        Tone::Plain,
    );
    page.say(&outcome_line(*outcome, stop.as_ref()), tone(*outcome));
}

fn outcome_line(outcome: Outcome, stop: Option<&Stop>) -> String {
    let Some(stop) = stop else {
        return format!("Outcome: {}", outcome.word());
    };
    let what = if stop.answer { "answer last" } else { "last" };
    format!(
        "Outcome: {}, {what} seen at {} of {} ({}): {}",
        outcome.word(),
        stop.interface,
        stop.node,
        stop.reason,
        stop.detail
    )
}

fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Answered => Tone::Good,
        Outcome::Unanswered => Tone::Unanswered,
        Outcome::Refused | Outcome::Lost => Tone::Bad,
    }
}

/// One line a connection: its ends, the interfaces of each node, and what became of it.
pub fn compact(path: &Path, (outcome, stop): &End) -> String {
    let (Some(first), Some(last)) = (path.legs.first(), path.legs.last()) else {
        return String::new();
    };
    let legs: Vec<String> = path
        .legs
        .iter()
        .map(|leg| {
            let hops: Vec<&str> = leg.hops.iter().map(|hop| hop.interface.as_str()).collect();
            format!("{}:{}", leg.node, hops.join(">"))
        })
        .collect();
    let reason = stop.as_ref().map(|stop| format!(" ({})", stop.reason));
    format!(
        "{} {} -> {} by {}, far end sees {}, {}{}",
        first.protocol,
        first.source,
        last.destination,
        legs.join(" ~ "),
        last.translated.source,
        outcome.word(),
        reason.unwrap_or_default()
    )
}

fn note(line: String) -> Entry {
    Entry {
        below: vec![line],
        ..Entry::default()
    }
}

fn leg_rows(leg: &Leg, rows: &mut Vec<Entry>, wide: bool) {
    let mut before = leg.original;
    for hop in &leg.hops {
        if hop.tuple != before {
            rows.push(note(format!("  * {}", translation(leg, before, hop.tuple))));
            before = hop.tuple;
        }
        let mut cells = cells(leg, hop);
        if wide {
            cells.push(leg.connection.clone());
        }
        rows.push(Entry::new(cells));
    }
    for line in &leg.notes {
        rows.push(note(format!("  + {line}")));
    }
}

/// What was done to the tuple between two hops.
fn translation(leg: &Leg, before: Pair, after: Pair) -> String {
    let mut what = Vec::new();
    if before.source != after.source {
        what.push(format!("source {} becomes {}", before.source, after.source));
    }
    if before.destination != after.destination {
        what.push(format!(
            "destination {} becomes {}",
            before.destination, after.destination
        ));
    }
    let nat = &leg.nat;
    let expected = match nat.expected.as_str() {
        "unknown" => String::new(),
        word => format!(", the configuration says {word}"),
    };
    let balancer = match leg.balancer {
        Some(word) if before.destination != after.destination => {
            format!(", load balancer {word}")
        }
        _ => String::new(),
    };
    format!(
        "{}: {}, {}{expected}{balancer}",
        what.join(", "),
        nat.kind,
        nat.cause
    )
}

fn cells(leg: &Leg, hop: &LegHop) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let both = |of: fn(&Counts) -> u64| {
        or_none(
            hop.counts
                .map(|(out, back)| format!("{}/{}", of(&out), of(&back))),
        )
    };
    vec![
        leg.node.clone(),
        hop.interface.clone(),
        hop.role.clone(),
        if hop.egress { "out" } else { "in" }.to_owned(),
        format!("{} -> {}", hop.tuple.source, hop.tuple.destination),
        both(|counts| counts.packets),
        both(|counts| counts.bytes),
        or_none(hop.pod.clone()),
    ]
}

/// One object.
pub fn json(path: &Path, (outcome, stop): &End) -> Value {
    let (Some(first), Some(last)) = (path.legs.first(), path.legs.last()) else {
        return Value::Null;
    };
    let legs: Vec<Value> = path.legs.iter().map(leg_json).collect();
    json!({
        "protocol": first.protocol,
        "class": first.class,
        "source": first.source,
        "destination": last.destination,
        "service": first.service,
        "state": first.state,
        "started": humantime::format_rfc3339_millis(first.started).to_string(),
        "original": pair_json(first.original),
        "remote_sees": end_json(last.translated.source),
        "legs": legs,
        "outcome": outcome.word(),
        "stopped": stop.as_ref().map(|stop| json!({
            "node": stop.node,
            "interface": stop.interface,
            "way": if stop.answer { "reply" } else { "forward" },
            "reason": stop.reason,
            "detail": stop.detail,
        })),
    })
}

fn leg_json(leg: &Leg) -> Value {
    let hops: Vec<Value> = leg.hops.iter().map(hop_json).collect();
    json!({
        "node": leg.node,
        "connection": leg.connection,
        "crossed_load_balancer": leg.balancer.map(|word| word == "crossed"),
        "nat": {
            "kind": leg.nat.kind,
            "cause": leg.nat.cause,
            "expected": leg.nat.expected,
            "original": pair_json(leg.original),
            "translated": pair_json(leg.translated),
        },
        "hops": hops,
        "notes": leg.notes,
    })
}

fn hop_json(hop: &LegHop) -> Value {
    let mut value = json!({
        "interface": hop.interface,
        "role": hop.role,
        "direction": if hop.egress { "egress" } else { "ingress" },
        "tuple": pair_json(hop.tuple),
    });
    if let Some(pod) = &hop.pod {
        value["pod"] = json!(pod);
    }
    if let Some((out, back)) = hop.counts {
        value["packets"] = json!(out.packets);
        value["bytes"] = json!(out.bytes);
        value["reply_packets"] = json!(back.packets);
        value["reply_bytes"] = json!(back.bytes);
    }
    value
}

fn pair_json(pair: Pair) -> Value {
    json!({
        "src": pair.source.ip().to_string(),
        "sport": pair.source.port(),
        "dst": pair.destination.ip().to_string(),
        "dport": pair.destination.port(),
    })
}

fn end_json(end: SocketAddr) -> Value {
    json!({"ip": end.ip().to_string(), "port": end.port()})
}
