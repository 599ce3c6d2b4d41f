//! What few connections have, in the record's extensions.

use prost_types::Value;

use super::extension::{count, tuple};
use super::structs::{Fields, IntoValue as _, put};
use crate::flow::{Flow, Hop, IcmpErrors, Tunnel};

/// Adds what a flow has of it.
pub(super) fn add(fields: &mut Fields, flow: &Flow) {
    let notes = &flow.notes;
    if let Some(errors) = &notes.icmp_errors {
        put(fields, "icmp_errors", icmp_errors(errors));
    }
    if notes.fragments != (0, 0) {
        put(fields, "fragments", both(notes.fragments));
    }
    if let Some(of) = &notes.tunnel {
        put(fields, "encapsulation", tunnel(of));
    }
}

/// Adds what a hop has of it.
pub(super) fn add_to_hop(fields: &mut Fields, hop: &Hop) {
    if !hop.vlans.is_empty() {
        let ids = hop.vlans.iter().map(|id| f64::from(*id).into_value());
        put(fields, "vlans", ids.collect::<Vec<Value>>());
    }
    let (to_initiator, to_responder) = hop.errors;
    if to_initiator.packets + to_responder.packets > 0 {
        let mut errors = Fields::new();
        put(&mut errors, "packets", count(to_responder.packets));
        put(&mut errors, "bytes", count(to_responder.bytes));
        put(&mut errors, "reply_packets", count(to_initiator.packets));
        put(&mut errors, "reply_bytes", count(to_initiator.bytes));
        put(fields, "icmp_errors", errors);
    }
}

/// A number of the initiator's and one of the answer's.
pub(super) fn both((forward, reply): (u64, u64)) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "forward", count(forward));
    put(&mut fields, "reply", count(reply));
    fields
}

fn icmp_errors(errors: &IcmpErrors) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "message", errors.message());
    put(&mut fields, "type", f64::from(errors.kind));
    put(&mut fields, "code", f64::from(errors.code));
    put(&mut fields, "from", errors.from.to_string());
    put(
        &mut fields,
        "to_initiator",
        count(errors.to_initiator.packets),
    );
    put(
        &mut fields,
        "to_responder",
        count(errors.to_responder.packets),
    );
    fields
}

fn tunnel(tunnel: &Tunnel) -> Fields {
    let mut fields = Fields::new();
    put(&mut fields, "kind", tunnel.encapsulation.name());
    put(&mut fields, "vni", f64::from(tunnel.network));
    if let Some(inner) = &tunnel.inner {
        let mut inside = tuple(inner);
        put(&mut inside, "protocol", inner.protocol.to_string());
        put(&mut fields, "inner", inside);
    }
    fields
}
