//! What few connections have, in a few words.

use crate::sink::observer::structs::{self, Fields};

/// What a record says besides its traffic: for example `vxlan 42: UDP 10.0.0.1:5 -> 10.0.0.2:53`,
/// `vlan 100.200`, `host unreachable from 10.0.0.9 x3`, `retransmits 2`. Empty for most.
pub(super) fn of(fields: &Fields) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(lost(fields));
    notes.extend(tunnel(fields));
    notes.extend(vlans(fields));
    notes.extend(errors(fields));
    let pair = |key: &str| {
        let number = |way| structs::number(fields, &[key, way]);
        Some((number("forward")?, number("reply")?))
    };
    if let Some((forward, reply)) = pair("fragments") {
        notes.push(format!("later fragments {forward}/{reply}"));
    }
    if let Some(end) = structs::text(fields, &["tcp", "reset_by"]) {
        notes.push(format!("reset by {end}"));
    }
    let segments = structs::number(fields, &["tcp", "retransmits"]);
    if let Some(segments) = segments.filter(|segments| *segments > 0.0) {
        notes.push(format!("retransmits {segments}"));
    }
    let windows = |way| structs::number(fields, &["tcp", "zero_windows", way]);
    if let (Some(forward), Some(reply)) = (windows("forward"), windows("reply")) {
        notes.push(format!("zero windows {forward}/{reply}"));
    }
    notes
}

/// Why and where packets died.
pub(super) fn lost(fields: &Fields) -> Option<String> {
    let reason = structs::text(fields, &["drop", "reason"])?;
    let hook = structs::text(fields, &["drop", "hook"]).unwrap_or("?");
    Some(format!("dropped {reason} at {hook}"))
}

/// The inner tuple of a tunnel.
fn tunnel(fields: &Fields) -> Option<String> {
    let kind = structs::text(fields, &["encapsulation", "kind"])?;
    let network = structs::number(fields, &["encapsulation", "vni"])?;
    let inner = structs::at(fields, &["encapsulation", "inner"]).and_then(structs::fields);
    let Some(inner) = inner else {
        return Some(format!("{kind} {network}"));
    };
    let end = |ip: &str, port: &str| {
        let ip = structs::text(inner, &[ip]).unwrap_or("?");
        let port = structs::number(inner, &[port]).unwrap_or_default();
        if ip.contains(':') {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        }
    };
    let protocol = structs::text(inner, &["protocol"]).unwrap_or("?");
    let (from, to) = (end("src", "sport"), end("dst", "dport"));
    Some(format!("{kind} {network}: {protocol} {from} -> {to}"))
}

/// VLANs of the first hop that has any.
fn vlans(fields: &Fields) -> Option<String> {
    let hops = structs::list(fields, &["hops"]);
    let ids = hops
        .iter()
        .filter_map(structs::fields)
        .map(|hop| structs::list(hop, &["vlans"]))
        .find(|ids| !ids.is_empty())?;
    let ids = ids.iter().filter_map(|id| match id.kind {
        Some(prost_types::value::Kind::NumberValue(id)) => Some(id.to_string()),
        _ => None,
    });
    Some(format!("vlan {}", ids.collect::<Vec<_>>().join(".")))
}

fn errors(fields: &Fields) -> Option<String> {
    let message = structs::text(fields, &["icmp_errors", "message"])?;
    let from = structs::text(fields, &["icmp_errors", "from"]).unwrap_or("?");
    let number = |way| structs::number(fields, &["icmp_errors", way]).unwrap_or_default();
    let count = number("to_initiator") + number("to_responder");
    Some(format!("{message} from {from} x{count}"))
}
