use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::path_end::Outcome;
use super::super::snapshot::{same, same_pages};
use super::*;
use crate::flow::{Flow, Hop, Identity, NatKind, Role};
use crate::sink::fixture::{at, pod_to_pod, socket};
use crate::sink::observer::convert;

/// The leg on node-1, whose API says that the destination is on node-2.
pub fn first_leg() -> Flow {
    let mut flow = pod_to_pod();
    if let Identity::Pod(pod) = &mut flow.destination {
        Arc::make_mut(pod).node = "node-2".into();
    }
    flow
}

/// The leg on node-2 of what a flow sends out.
pub fn second_leg(first: &Flow) -> Flow {
    let mut flow = first.clone();
    flow.node = "node-2".into();
    flow.connection = 0x222;
    flow.started = at(91);
    flow.tuple = first.nat.translated;
    flow.nat.original = first.nat.translated;
    flow.nat.translated = first.nat.translated;
    flow.nat.kind = NatKind::None;
    flow.hops.reverse();
    for hop in &mut flow.hops {
        hop.direction = match hop.role {
            Role::Pod => crate::flow::Direction::Egress,
            _ => crate::flow::Direction::Ingress,
        };
    }
    flow
}

pub fn legs(flows: &[Flow]) -> Vec<Leg> {
    newest(
        flows
            .iter()
            .filter_map(|flow| Leg::read(&convert::response(flow))),
    )
}

pub fn silent(flow: &mut Flow) {
    flow.reply = crate::flow::Traffic::default();
    if let Some(tcp) = &mut flow.tcp {
        tcp.reply_flags = 0;
    }
    let mute = |hop: &mut Hop| hop.reply = Some(crate::flow::Counts::default());
    flow.hops.iter_mut().for_each(mute);
}

fn asked() -> BTreeSet<String> {
    ["node-1", "node-2"].map(str::to_owned).into()
}

#[test]
fn legs_of_two_nodes_are_one_path() {
    let first = first_leg();
    let paths = join(legs(&[second_leg(&first), first]));
    assert_eq!(paths.len(), 1);
    let nodes: Vec<_> = paths[0].legs.iter().map(|leg| leg.node.as_str()).collect();
    assert_eq!(nodes, ["node-1", "node-2"]);
    let (outcome, stop) = judge(&paths[0], &asked());
    assert_eq!(outcome, Outcome::Answered);
    assert!(stop.is_none());
}

#[test]
fn a_second_hop_is_joined_by_the_tuple_that_the_first_node_made() {
    let mut first = first_leg();
    first.nat.kind = NatKind::Both;
    first.nat.translated.source = socket([10, 224, 0, 4], 1234);
    first.nat.translated.destination = socket([10, 244, 1, 20], 8080);
    let second = second_leg(&first);
    // The same tuples an hour later are another connection.
    let mut later = second.clone();
    later.connection = 0x333;
    later.started = at(3700);
    later.time = at(3701);
    let paths = join(legs(&[later, second, first]));
    let sizes: Vec<_> = paths.iter().map(|path| path.legs.len()).collect();
    assert_eq!(sizes, [2, 1]);
    assert_eq!(paths[0].legs[1].connection, format!("{:016x}", 0x222));
    let mut page = Page::new(Style::default());
    path_show::show(&mut page, &paths[0], &judge(&paths[0], &asked()), false);
    let page = page.text();
    assert!(page.contains("network between the nodes"), "{page}");
    let end = judge(&paths[0], &asked());
    same_pages("path", |page| path_show::show(page, &paths[0], &end, false));
    same("path-compact", &path_show::compact(&paths[0], &end));
    same("path-json", &path_show::json(&paths[0], &end).to_string());
    let mut page = Page::new(Style::default());
    path_show::show(&mut page, &paths[0], &end, true);
    same("path-wide", page.text());
}

#[test]
fn what_left_and_never_arrived_points_at_the_route_table() {
    let mut first = first_leg();
    silent(&mut first);
    let paths = join(legs(&[first]));
    let (outcome, stop) = judge(&paths[0], &asked());
    assert_eq!(outcome, Outcome::Lost);
    let Some(stop) = stop else {
        panic!("no stop");
    };
    assert_eq!(
        (stop.interface.as_str(), stop.reason),
        ("eth0", "not-arrived")
    );
    assert!(stop.detail.contains("route table"), "{}", stop.detail);
    // Nothing is said about a node that was not asked.
    let (outcome, stop) = judge(&paths[0], &["node-1".to_owned()].into());
    assert_eq!(outcome, Outcome::Unanswered);
    assert_eq!(stop.map(|stop| stop.reason), Some("next-node-not-asked"));
}

#[test]
fn delivered_refused_and_answers_that_got_lost_are_told_apart() {
    let first = first_leg();
    let second = second_leg(&first);
    let (mut quiet, mut delivered) = (first.clone(), second.clone());
    silent(&mut quiet);
    silent(&mut delivered);
    let reason = |flows: &[Flow]| {
        let paths = join(legs(flows));
        let (outcome, stop) = judge(&paths[0], &asked());
        (outcome, stop.map(|stop| (stop.node, stop.reason)))
    };
    let at = |node: &str, reason| Some((node.to_owned(), reason));
    assert_eq!(
        reason(&[quiet.clone(), delivered.clone()]),
        (Outcome::Unanswered, at("node-2", "no-reply-from-pod"))
    );
    assert_eq!(
        reason(&[quiet.clone(), second]),
        (Outcome::Lost, at("node-2", "answer-lost"))
    );
    if let Some(tcp) = &mut delivered.tcp {
        tcp.reply_flags = 0x14;
    }
    assert_eq!(
        reason(&[quiet, delivered]),
        (Outcome::Refused, at("node-2", "refused"))
    );
}

/// A record of dead packets carries their connection's id, and is newer than the connection's.
#[test]
fn dead_packets_are_told_at_their_connection_and_are_none_themselves() {
    let mut first = first_leg();
    silent(&mut first);
    let mut dead = first.clone();
    dead.event = crate::flow::Event::Drop;
    dead.time = at(500);
    dead.hops.clear();
    dead.forward.total.packets = 3;
    dead.drop = Some(crate::flow::Drop {
        reason: "NETFILTER_DROP".into(),
        interface: "cbr0".into(),
        in_pod: false,
        direction: crate::flow::Direction::Ingress,
        function: None,
    });
    let records: Vec<_> = [&first, &dead].map(convert::response).into();
    let mut legs = newest(records.iter().filter_map(Leg::read));
    path_lost::tell(&mut legs, &records);
    assert_eq!(legs.len(), 1);
    assert_eq!(legs[0].hops.len(), first.hops.len());
    let told = "dropped NETFILTER_DROP at cbr0 ingress: 3 packets";
    assert!(
        legs[0].notes.iter().any(|note| note == told),
        "{:?}",
        legs[0].notes
    );
}

#[test]
fn what_comes_in_and_does_not_go_on_was_dropped_on_the_node() {
    let mut first = first_leg();
    silent(&mut first);
    first.hops.truncate(1);
    let paths = join(legs(&[first.clone()]));
    let reason = |path: &Path| judge(path, &asked()).1.map(|stop| stop.reason);
    assert_eq!(reason(&paths[0]), Some("stopped-on-node"));
    first.destination_service = Some(crate::sink::fixture::name("shop", "db"));
    assert_eq!(reason(&join(legs(&[first]))[0]), Some("no-backend"));
}
