//! Checks of health probes.

use super::{Facts, Finding, count};
use crate::flow::{ProbeKind, ProbeResult};
use crate::insight::probes::{LastAnswer, Presence, Report, Target};

fn of_balancer<'a>(facts: &'a Facts<'_>) -> Vec<&'a Report> {
    let is_lb = |report: &&Report| matches!(report.target, Target::Lb { .. });
    facts.probes.iter().filter(is_lb).collect()
}

/// What is probed, in words.
fn target(report: &Report) -> String {
    match &report.target {
        Target::Lb {
            service: Some(service),
            port,
        } => format!("{service} (port {port})"),
        Target::Lb {
            service: None,
            port,
        } => format!("port {port}"),
        Target::Kubelet {
            pod,
            container,
            kind,
        } => format!("{} of {pod}, container {container}", kind.name()),
    }
}

/// How long ago the newest probe came.
fn age(report: &Report, facts: &Facts<'_>) -> String {
    let age = report
        .last_seen
        .and_then(|seen| facts.now.wall.duration_since(seen).ok());
    age.map_or_else(
        || "just now".to_owned(),
        |age| format!("{} s ago", age.as_secs()),
    )
}

/// The newest answer, in words.
fn said(report: &Report) -> String {
    report
        .last
        .as_ref()
        .map_or_else(|| "no answer".to_owned(), |last| last.status.to_string())
}

/// Probes of the load balancer keep coming at each port where they are due.
pub(super) fn load_balancer(facts: &Facts<'_>) -> Finding {
    let targets = of_balancer(facts);
    if targets.is_empty() {
        return Finding::unknown("no service has a load balancer, and no probe of one was seen");
    }
    let with = |presence| {
        let those = targets.iter().filter(|report| report.presence == presence);
        those.copied().collect::<Vec<_>>()
    };
    if let Some(absent) = with(Presence::Absent).first() {
        let every = absent.interval.map_or(String::new(), |gap| {
            format!(", one every {} s before", gap.as_secs())
        });
        return Finding::fail(format!(
            "{}: probes have stopped, the newest came {}{every}; does the load balancer still have \
             this node, and do its probes pass the network security group?",
            target(absent),
            age(absent, facts)
        ));
    }
    if let Some(never) = with(Presence::NeverSeen).first() {
        return Finding::unknown(format!(
            "{}: no probe was seen since the agent started",
            target(never)
        ));
    }
    let told: Vec<String> = targets
        .iter()
        .map(|report| format!("{} {}", target(report), age(report, facts)))
        .collect();
    Finding::pass(format!("probes arrive: {}", told.join(", ")))
}

/// The health-check port says what the API lists as ready endpoints of this node.
pub(super) fn healthz(facts: &Facts<'_>) -> Finding {
    let told: Vec<_> = of_balancer(facts)
        .into_iter()
        .filter_map(|report| report.agrees.map(|agrees| (report, agrees)))
        .collect();
    let words = |report: &Report| {
        let answer = report.last.as_ref().and_then(|last| last.health);
        let local = answer.map_or_else(
            || "unsaid".to_owned(),
            |health| health.local_endpoints.to_string(),
        );
        let api = report.api_local_endpoints.unwrap_or_default();
        format!(
            "{} answers {} with localEndpoints {local}, the API lists {api} ready on this node",
            target(report),
            said(report)
        )
    };
    if let Some((report, _)) = told.iter().find(|(_, agrees)| !agrees) {
        return Finding::fail(format!(
            "{}: does kube-proxy of this node follow the API?",
            words(report)
        ));
    }
    match told.first() {
        Some((report, _)) => Finding::pass(words(report)),
        None => Finding::unknown("no answer of a health-check node port was seen of late"),
    }
}

/// The kubelet's probes of the pods here succeed. A probe is judged by its newest known result: an
/// answer that was not captured changes nothing.
pub(super) fn kubelet(facts: &Facts<'_>) -> Finding {
    let probes: Vec<&Report> = facts
        .probes
        .iter()
        .filter(|report| report.target.kind() != ProbeKind::Lb)
        .filter(|report| report.presence == Presence::Arriving)
        .collect();
    let ended = |results: &[ProbeResult]| {
        let those = probes.iter().filter_map(|report| {
            let known = report.known.as_ref()?;
            results.contains(&known.result).then_some((*report, known))
        });
        those.collect::<Vec<_>>()
    };
    let failing = ended(&[ProbeResult::Failure, ProbeResult::Timeout]);
    if let Some((report, known)) = failing.first() {
        return Finding::fail(format!(
            "{} of {} failing: {} on port {}: {}",
            failing.len(),
            count(probes.len(), "probe"),
            target(report),
            report.port,
            of_then(report, known, facts)
        ));
    }
    let passing = ended(&[ProbeResult::Success]);
    match passing.first() {
        Some((report, known)) => Finding::pass(format!(
            "{} of {} succeeded last, such as {}: {}",
            passing.len(),
            count(probes.len(), "probe"),
            target(report),
            of_then(report, known, facts)
        )),
        None if probes.is_empty() => Finding::unknown("no probe of the kubelet was seen of late"),
        None => Finding::unknown(format!(
            "{} of the kubelet seen, whose answers could not be read",
            count(probes.len(), "probe")
        )),
    }
}

/// A known answer, and how old it is where a newer one was not captured.
fn of_then(report: &Report, known: &LastAnswer, facts: &Facts<'_>) -> String {
    let newer = report
        .last
        .as_ref()
        .is_some_and(|last| last.result == ProbeResult::Unknown);
    if !newer {
        return known.status.to_string();
    }
    let age = facts.now.wall.duration_since(known.at).unwrap_or_default();
    format!(
        "{} ({} s ago; newer answers were not captured)",
        known.status,
        age.as_secs()
    )
}
