//! Packets that died, told at the leg of their connection.

use std::collections::BTreeMap;

use super::notes;
use super::path_leg::Leg;
use crate::sink::observer::structs;
use crate::sink::proto::flow::{Flow, Verdict};
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// Reasons and places that are told of one connection.
const TOLD: usize = 4;

/// Whether a record is about packets that died, and not about a connection.
pub fn is_loss(flow: &Flow) -> bool {
    flow.verdict() == Verdict::Dropped
}

/// Notes on each leg why and where packets of its connection died.
pub fn tell(legs: &mut [Leg], records: &[GetFlowsResponse]) {
    // The newest record of a reason and place has the packets of all before.
    let mut lost: BTreeMap<(&str, String), BTreeMap<String, f64>> = BTreeMap::new();
    for record in records {
        let Some(ResponseTypes::Flow(flow)) = &record.response_types else {
            continue;
        };
        let fields = flow.extensions.as_ref().and_then(structs::unpack);
        let Some(fields) = fields.filter(|_| is_loss(flow)) else {
            continue;
        };
        let (Some(connection), Some(how)) = (
            structs::text(&fields, &["connection"]),
            notes::lost(&fields),
        ) else {
            continue;
        };
        let key = (flow.node_name.as_str(), connection.to_owned());
        let packets = structs::number(&fields, &["forward", "packets_total"]);
        let known = lost.entry(key).or_default().entry(how).or_default();
        *known = known.max(packets.unwrap_or_default());
    }
    for leg in legs {
        let key = (leg.node.as_str(), leg.connection.clone());
        for (how, packets) in lost.get(&key).into_iter().flatten().take(TOLD) {
            leg.notes.push(format!("{how}: {packets} packets"));
        }
    }
}
