//! How a connection ended, where its packets were last seen, and the likely reason.

use std::collections::BTreeSet;

use super::path_join::Path;
use super::path_leg::{Leg, LegHop};

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The initiator got an answer.
    Answered,
    /// The far end said no (RST).
    Refused,
    /// Nobody answered, as far as was seen.
    Unanswered,
    /// Packets went missing between two places that were both looked at.
    Lost,
}

impl Outcome {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Lost => "lost",
        }
    }
}

/// Where it stops.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The node that last saw it.
    pub node: String,
    /// The interface that last saw it.
    pub interface: String,
    /// Whether it is the answer that stops there.
    pub answer: bool,
    /// A word for the reason.
    pub reason: &'static str,
    /// The likely reason, and where to look.
    pub detail: String,
}

/// What became of a connection, and where it stops if it does. `asked` are the nodes whose
/// agents told what they saw.
pub fn judge(path: &Path, asked: &BTreeSet<String>) -> (Outcome, Option<Stop>) {
    let (Some(first), Some(last)) = (path.legs.first(), path.legs.last()) else {
        return (Outcome::Unanswered, None);
    };
    if path.legs.iter().any(|leg| leg.refused) {
        let stop = stop(last, last.last_seen(), false, "refused", refused(last));
        return (Outcome::Refused, stop);
    }
    if first.totals.1.packets > 0 || first.answer_seen().is_some() {
        return (Outcome::Answered, None);
    }
    let answered = path.legs.iter().find(|leg| leg.answer_seen().is_some());
    if let Some(leg) = answered {
        let detail = format!(
            "answers were seen on {} and not on {}: look at the way back to {}, the route table of \
             the next hop first",
            leg.node,
            first.node,
            leg.original.source.ip()
        );
        let stop = stop(leg, leg.answer_seen(), true, "answer-lost", detail);
        return (Outcome::Lost, stop);
    }
    forward(last, asked)
}

/// No answer anywhere: where the initiator's packets were last seen.
fn forward(leg: &Leg, asked: &BTreeSet<String>) -> (Outcome, Option<Stop>) {
    let Some(hop) = leg.last_seen() else {
        return (Outcome::Unanswered, None);
    };
    let (outcome, reason, detail) = match (hop.role.as_str(), hop.egress) {
        ("pod", true) => {
            let pod = hop.pod.as_deref().unwrap_or("the pod");
            let detail = format!(
                "delivered to {pod}, which did not answer: is anything listening on {}, or does \
                 the pod itself drop it?",
                leg.translated.destination
            );
            (Outcome::Unanswered, "no-reply-from-pod", detail)
        }
        (_, true) => beyond(leg, hop, asked),
        (_, false) => inside(leg, hop),
    };
    (outcome, stop(leg, Some(hop), false, reason, detail))
}

/// The packets left the node.
fn beyond(leg: &Leg, hop: &LegHop, asked: &BTreeSet<String>) -> (Outcome, &'static str, String) {
    let to = leg.translated.destination.ip();
    let (node, by) = (&leg.node, &hop.interface);
    match &leg.destination_node {
        Some(next) if next == node => (
            Outcome::Lost,
            "sent-away",
            format!("left {node} by {by} although {to} is on this node: look at the node's routes"),
        ),
        Some(next) if asked.contains(next) => (
            Outcome::Lost,
            "not-arrived",
            format!(
                "left {node} by {by} and was never seen on {next}: likely the next hop's route \
                 table has no route for {to} to {next}; else a filter (network security group) \
                 between them"
            ),
        ),
        Some(next) => (
            Outcome::Unanswered,
            "next-node-not-asked",
            format!("left {node} by {by} for {next}, whose agent was not asked: add its --server"),
        ),
        None if leg.class == "pod-to-pod" => (
            Outcome::Unanswered,
            "left-the-node",
            format!(
                "left {node} by {by} for a pod address of another node and nobody answered: is \
                 there a pod with {to}, and does the next hop's route table know its node?"
            ),
        ),
        None => (
            Outcome::Unanswered,
            "left-the-node",
            format!(
                "left {node} by {by} as {} and nobody answered: look beyond the node (route \
                 table, firewall, {to} itself)",
                leg.translated.source.ip()
            ),
        ),
    }
}

/// The packets came in and did not go on.
fn inside(leg: &Leg, hop: &LegHop) -> (Outcome, &'static str, String) {
    let (node, by) = (&leg.node, &hop.interface);
    if let Some(service) = &leg.service
        && leg.nat.kind == "none"
    {
        let detail = format!(
            "came in by {by} of {node} for service {service} and no backend was chosen: has the \
             service ready endpoints (nodescope services), and kube-proxy its rules?"
        );
        return (Outcome::Unanswered, "no-backend", detail);
    }
    if leg.class.ends_with("-to-node") || leg.class == "lb-probe" {
        let detail = format!(
            "reached {node} itself by {by}, which did not answer: is anything listening on {}?",
            leg.translated.destination
        );
        return (Outcome::Unanswered, "no-reply-from-node", detail);
    }
    let detail = format!(
        "came in by {by} of {node} and left by no interface: dropped on the node (network policy, \
         no route, no neighbour for {})",
        leg.translated.destination.ip()
    );
    (Outcome::Lost, "stopped-on-node", detail)
}

fn refused(leg: &Leg) -> String {
    let by = match leg.last_seen() {
        Some(hop) if hop.role == "pod" && hop.egress => hop.pod.clone(),
        _ => None,
    };
    let by = by.unwrap_or_else(|| leg.translated.destination.ip().to_string());
    format!(
        "{by} refused with RST: nothing listens on port {}",
        leg.translated.destination.port()
    )
}

fn stop(
    leg: &Leg,
    hop: Option<&LegHop>,
    answer: bool,
    reason: &'static str,
    detail: String,
) -> Option<Stop> {
    hop.map(|hop| Stop {
        node: leg.node.clone(),
        interface: hop.interface.clone(),
        answer,
        reason,
        detail,
    })
}
