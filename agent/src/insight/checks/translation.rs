//! Checks of source translation.

use std::sync::Arc;

use super::{Facts, Finding, count, ends};
use crate::flow::{Class, Expected, Flow, NatKind};

/// Whether the initiator's address was translated.
fn is_snat(flow: &Flow) -> bool {
    matches!(flow.nat.kind, NatKind::Snat | NatKind::Both)
        && flow.nat.translated.source.ip() != flow.tuple.source.ip()
}

/// Pods reach each other by address under their own addresses.
pub(super) fn pod_to_pod_no_snat(facts: &Facts<'_>) -> Finding {
    let told: Vec<&Arc<Flow>> = facts
        .flows
        .iter()
        .filter(|flow| flow.class == Class::PodToPod && flow.destination_service.is_none())
        .filter(|flow| flow.nat.source.is_some())
        .collect();
    let Some(newest) = told.last() else {
        return Finding::unknown("no connection between pods by address was seen of late");
    };
    let translated: Vec<_> = told.iter().filter(|flow| is_snat(flow)).collect();
    match translated.last() {
        None => Finding::pass(format!(
            "{} between pods kept the source, the newest {}",
            count(told.len(), "connection"),
            ends(newest)
        )),
        Some(flow) => Finding::fail(format!(
            "{} of {} between pods left as another address: {} as {}; look at the masquerade \
             rules of this node (iptables -t nat -nL POSTROUTING)",
            translated.len(),
            told.len(),
            ends(flow),
            flow.nat.translated.source
        )),
    }
}

/// What leaves the pods for other places, of which the configuration says what to do.
fn egress<'a>(facts: &'a Facts<'_>) -> Vec<&'a Arc<Flow>> {
    facts
        .flows
        .iter()
        .filter(|flow| flow.source.is_pod() && flow.nat.source.is_some())
        .filter(|flow| matches!(flow.class, Class::PodToWorld | Class::Platform))
        .collect()
}

fn agrees(flow: &Flow) -> Option<bool> {
    match flow.nat.expected {
        Expected::Unknown => None,
        Expected::Kept => Some(!is_snat(flow)),
        Expected::Translated => Some(is_snat(flow)),
    }
}

/// Pods leave the cluster under the address that the masquerade configuration says.
pub(super) fn egress_snat(facts: &Facts<'_>) -> Finding {
    let seen = egress(facts);
    if seen.is_empty() {
        return Finding::unknown("no connection from a pod to the outside was seen of late");
    }
    let told: Vec<_> = seen
        .iter()
        .filter_map(|flow| agrees(flow).map(|agrees| (flow, agrees)))
        .collect();
    let Some((newest, _)) = told.last() else {
        return Finding::unknown(format!(
            "{} from pods to the outside, and the masquerade configuration is not known",
            count(seen.len(), "connection")
        ));
    };
    let wrong: Vec<_> = told.iter().filter(|(_, agrees)| !agrees).collect();
    match wrong.last() {
        None => Finding::pass(format!(
            "{} from pods to the outside as configured, the newest {} as {}",
            count(told.len(), "connection"),
            ends(newest),
            newest.remote_sees
        )),
        Some((flow, _)) => Finding::fail(format!(
            "{} of {} from pods to the outside not as configured: {} {}",
            wrong.len(),
            told.len(),
            ends(flow),
            argument(flow)
        )),
    }
}

/// The masquerade configuration is what the node does: every range of which traffic was seen
/// is treated as it says.
pub(super) fn masq_config(facts: &Facts<'_>) -> Finding {
    let told: Vec<_> = egress(facts)
        .into_iter()
        .filter(|flow| agrees(flow).is_some())
        .collect();
    let by = |expected: Expected| told.iter().filter(|flow| flow.nat.expected == expected).count();
    if told.is_empty() {
        return Finding::unknown(
            "no connection from a pod to the outside was seen of which the masquerade \
             configuration says what to do",
        );
    }
    let wrong = told.iter().rev().find(|flow| agrees(flow) == Some(false));
    match wrong {
        None => Finding::pass(format!(
            "{} to be translated and {} to be kept, and all were",
            by(Expected::Translated),
            by(Expected::Kept)
        )),
        Some(flow) => Finding::fail(format!(
            "{} {}: the configuration is not what the node does (edited and not applied? is the \
             ip-masq-agent of this node running?)",
            ends(flow),
            argument(flow)
        )),
    }
}

/// Both sides of the argument.
fn argument(flow: &Flow) -> String {
    match flow.nat.expected {
        Expected::Kept => format!(
            "should keep its address and left as {}",
            flow.nat.translated.source
        ),
        _ => "should be translated and kept its address".to_owned(),
    }
}
