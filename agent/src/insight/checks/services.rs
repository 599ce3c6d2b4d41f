//! Checks of services.

use super::{Facts, Finding, count};
use crate::insight::services::Report;

fn with_policy<'a>(facts: &'a Facts<'_>, policy: &str) -> Vec<&'a Report> {
    let named = |report: &&Report| report.policy == Some(policy);
    facts.services.iter().filter(named).collect()
}

fn newest(report: &Report) -> &str {
    report.observed.evidence.front().map_or("", String::as_str)
}

/// Clients of `externalTrafficPolicy: Local` reach a backend on the node, address kept.
pub(super) fn local_policy(facts: &Facts<'_>) -> Finding {
    let services = with_policy(facts, "Local");
    if services.is_empty() {
        return Finding::unknown("no service has externalTrafficPolicy: Local");
    }
    let wrong = services.iter().find(|report| {
        let seen = &report.observed;
        seen.external_lost > 0 || seen.second_hop > 0
    });
    if let Some(report) = wrong {
        return Finding::fail(format!(
            "{}: {} of {} lost the client's address, {} went to another node: {}",
            report.service.name,
            report.observed.external_lost,
            count(number(report.observed.external()), "connection"),
            report.observed.second_hop,
            newest(report)
        ));
    }
    match services
        .iter()
        .find(|report| report.observed.external() > 0)
    {
        Some(report) => Finding::pass(format!(
            "{}: all of {} from outside kept the client's address: {}",
            report.service.name,
            count(number(report.observed.external()), "connection"),
            newest(report)
        )),
        None => Finding::unknown(format!(
            "no connection from outside to {} was seen",
            count(services.len(), "service")
        )),
    }
}

/// With policy Cluster, what goes on to another node is masqueraded and answered: else the
/// backend would answer the client past the node that translated.
pub(super) fn second_hop(facts: &Facts<'_>) -> Finding {
    let services = with_policy(facts, "Cluster");
    if services.is_empty() {
        return Finding::unknown("no service with externalTrafficPolicy: Cluster faces outwards");
    }
    for report in &services {
        let seen = &report.observed;
        if seen.second_hop_kept > 0 {
            return Finding::fail(format!(
                "{}: {} of {} to another node kept the client's address, so that the answer takes \
                 another way back: {}",
                report.service.name,
                seen.second_hop_kept,
                count(number(seen.second_hop), "connection"),
                newest(report)
            ));
        }
        if seen.second_hop > 0 && seen.second_hop_answered == 0 {
            return Finding::fail(format!(
                "{}: none of {} to another node was answered: see nodescope path",
                report.service.name,
                count(number(seen.second_hop), "connection")
            ));
        }
    }
    match services
        .iter()
        .find(|report| report.observed.second_hop > 0)
    {
        Some(report) => Finding::pass(format!(
            "{}: {} of {} to another node masqueraded and answered: {}",
            report.service.name,
            report.observed.second_hop_answered,
            count(number(report.observed.second_hop), "connection"),
            newest(report)
        )),
        None => {
            Finding::unknown("no connection from outside to a backend on another node was seen")
        }
    }
}

fn number(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
