//! `cross-node-route` where several agents were asked: what left one node is looked for on the
//! next, as `path` does, so that a pod that does not answer is no missing route.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::agents::Agent;
use super::check::Outcome;
use super::live;
use super::path_end::{self, judge};
use super::path_join::{Path, join, newest};
use super::path_leg::Leg;
use crate::insight::checks::WINDOW;
use crate::sink::proto::node::RunChecksResponse;
use crate::sink::proto::observer::GetFlowsRequest;

/// The check.
const NAME: &str = "cross-node-route";

/// A connection without an answer is looked at when it is so old: its SYN was sent again
/// (RFC 6298), and the next node has told of it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the newest connection from one node to another shows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Crossing {
    outcome: Outcome,
    evidence: String,
}

/// By node that sent and node that should have got it.
type Crossings = BTreeMap<(String, String), Crossing>;

/// Puts what both ends saw in the place of what each sender alone could tell. Where the flows
/// cannot be had, the senders' word stays.
pub async fn refine(found: &mut [RunChecksResponse], agents: &[Agent]) {
    let wanted = |answer: &RunChecksResponse| answer.findings.iter().any(|one| one.name == NAME);
    if !found.iter().any(wanted) {
        return;
    }
    let since = SystemTime::now().checked_sub(WINDOW);
    let request = GetFlowsRequest {
        number: u64::MAX,
        since: since.map(Into::into),
        ..GetFlowsRequest::default()
    };
    // Agents that do not answer were told about when the checks were asked for.
    let Ok(streams) = live::open(agents, &request).await else {
        return;
    };
    let Ok(records) = live::collect(streams).await else {
        return;
    };
    let paths = join(newest(records.iter().filter_map(Leg::read)));
    let asked = found.iter().map(|answer| answer.node.clone()).collect();
    apply(found, &crossings(&paths, &asked, SystemTime::now()));
}

/// What each pair of nodes shows, by its newest connection that shows something.
fn crossings(paths: &[Path], asked: &BTreeSet<String>, now: SystemTime) -> Crossings {
    let mut newest = Crossings::new();
    // Paths come oldest first: what was repaired, or broke, is told by the newest.
    for path in paths {
        let Some(first) = path.legs.first() else {
            continue;
        };
        let from_pod = first
            .hops
            .first()
            .is_some_and(|hop| hop.role == "pod" && !hop.egress);
        let to = first
            .destination_node
            .as_ref()
            .filter(|to| **to != first.node);
        let Some(to) = to.filter(|_| from_pod && first.class == "pod-to-pod") else {
            continue;
        };
        if let Some(crossing) = crossing(path, first, to, asked, now) {
            newest.insert((first.node.clone(), to.clone()), crossing);
        }
    }
    newest
}

fn crossing(
    path: &Path,
    first: &Leg,
    to: &str,
    asked: &BTreeSet<String>,
    now: SystemTime,
) -> Option<Crossing> {
    let ends = format!("{} -> {}", first.source, first.destination);
    let told = |outcome, evidence| Some(Crossing { outcome, evidence });
    let (outcome, stop) = judge(path, asked);
    let old = now.duration_since(first.started).unwrap_or_default() >= PATIENCE;
    match (outcome, stop) {
        (path_end::Outcome::Answered, _) => told(Outcome::Pass, format!("{to} answers: {ends}")),
        // A node can refuse by itself what its pods send; what came to the next node is no such.
        (path_end::Outcome::Refused, _) if path.legs.len() > 1 => told(
            Outcome::Pass,
            format!("{to} is reached, and refuses: {ends}"),
        ),
        (_, Some(stop)) if old => match stop.reason {
            "not-arrived" | "answer-lost" | "sent-away" => {
                told(Outcome::Fail, format!("to {to}: {ends}: {}", stop.detail))
            }
            "next-node-not-asked" | "left-the-node" => None,
            _ if path.legs.len() > 1 => told(
                Outcome::Unknown,
                format!(
                    "{to} is reached, but nothing came back to tell of: {ends}: {}",
                    stop.detail
                ),
            ),
            _ => None,
        },
        _ => None,
    }
}

fn apply(found: &mut [RunChecksResponse], crossings: &Crossings) {
    for answer in found {
        let own: Vec<&Crossing> = crossings
            .iter()
            .filter(|((from, _), _)| *from == answer.node)
            .map(|(_, crossing)| crossing)
            .collect();
        let first = |outcome| own.iter().find(|crossing| crossing.outcome == outcome);
        let order = [Outcome::Fail, Outcome::Pass, Outcome::Unknown];
        let Some(decisive) = order.into_iter().find_map(first) else {
            continue;
        };
        for finding in answer.findings.iter_mut().filter(|one| one.name == NAME) {
            finding.verdict = decisive.outcome.word().to_owned();
            finding.evidence.clone_from(&decisive.evidence);
        }
    }
}

#[cfg(test)]
#[path = "check_route_tests.rs"]
mod tests;
