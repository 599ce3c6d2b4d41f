//! Checks of source translation.

use std::sync::Arc;

use super::{Facts, Finding, count, ends};
use crate::cluster::Masquerade;
use crate::flow::{Class, Expected, Flow};

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
    let translated: Vec<_> = told
        .iter()
        .filter(|flow| flow.nat.is_source_translated())
        .collect();
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

/// Whether conntrack shows what the configuration says, where it says something.
fn agrees(flow: &Flow) -> Option<bool> {
    (flow.nat.expected != Expected::Unknown).then(|| !flow.nat.is_mismatch())
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
        let why = seen
            .iter()
            .rev()
            .find_map(|flow| flow.expectation.as_deref());
        return Finding::unknown(format!(
            "{} from pods to the outside, of which the masquerade configuration is not known: {}",
            count(seen.len(), "connection"),
            why.unwrap_or("nothing was told")
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

/// The masquerade configuration is what the node does: of all that the configuration speaks of,
/// nothing was translated, or kept, against it.
pub(super) fn masq_config(facts: &Facts<'_>) -> Finding {
    let source = match facts.inventory.masquerade() {
        Masquerade::Configured(config) => config.source.as_str(),
        Masquerade::Absent => "no ConfigMap of a masquerade agent, so the default",
        Masquerade::Unknown(why) => return Finding::unknown(why.as_str()),
    };
    let told: Vec<&Arc<Flow>> = facts
        .flows
        .iter()
        .filter(|flow| flow.source.is_pod() && flow.nat.source.is_some())
        .filter(|flow| agrees(flow).is_some())
        .collect();
    if told.is_empty() {
        return Finding::unknown(format!(
            "{source}: no connection that it speaks of was seen of late"
        ));
    }
    let by = |expected: Expected| {
        let those = told.iter().filter(|flow| flow.nat.expected == expected);
        those.count()
    };
    match told.iter().rev().find(|flow| flow.nat.is_mismatch()) {
        None => Finding::pass(format!(
            "{source}: {} to be translated and {} to be kept, and all were",
            count(by(Expected::Translated), "connection"),
            by(Expected::Kept)
        )),
        Some(flow) => Finding::fail(format!(
            "{source}: {}: {}; was it edited and not applied, does the masquerade agent of this \
             node run?",
            ends(flow),
            argument(flow)
        )),
    }
}

/// Both sides of the argument.
fn argument(flow: &Flow) -> String {
    let says = flow.expectation.as_deref().unwrap_or("the configuration");
    format!("{}, but {says}", flow.nat.observed())
}
