use super::super::path::tests::{first_leg, legs, second_leg, silent};
use super::*;
use crate::flow::Flow;
use crate::sink::fixture::at;
use crate::sink::proto::node::CheckFinding;

/// What two agents say together of flows, each of which alone had said `FAIL`.
fn together(flows: &[Flow]) -> Vec<(String, String)> {
    let asked: BTreeSet<String> = ["node-1", "node-2"].map(str::to_owned).into();
    let mut found: Vec<_> = asked
        .iter()
        .map(|node| RunChecksResponse {
            node: node.clone(),
            findings: vec![CheckFinding {
                name: NAME.to_owned(),
                verdict: "FAIL".to_owned(),
                evidence: "alone".to_owned(),
                each_node: false,
            }],
        })
        .collect();
    apply(&mut found, &crossings(&join(legs(flows)), &asked, at(120)));
    found
        .into_iter()
        .flat_map(|answer| answer.findings)
        .map(|finding| (finding.verdict, finding.evidence))
        .collect()
}

#[test]
fn what_left_and_never_arrived_fails() {
    let mut first = first_leg();
    silent(&mut first);
    let found = together(&[first]);
    assert_eq!(found[0].0, "FAIL");
    assert!(
        found[0].1.contains("never seen on node-2"),
        "{}",
        found[0].1
    );
    assert!(found[0].1.contains("route table"), "{}", found[0].1);
    // Of the node that sent nothing its own word stays.
    assert_eq!(found[1].1, "alone");
}

#[test]
fn a_pod_that_is_reached_and_does_not_answer_is_no_missing_route() {
    let (mut first, mut second) = (first_leg(), second_leg(&first_leg()));
    silent(&mut first);
    silent(&mut second);
    let found = together(&[first, second]);
    assert_eq!(found[0].0, "UNKNOWN");
    assert!(found[0].1.contains("node-2 is reached"), "{}", found[0].1);
}

#[test]
fn an_answer_that_gets_lost_fails_and_one_that_comes_passes() {
    let (first, second) = (first_leg(), second_leg(&first_leg()));
    assert_eq!(together(&[first.clone(), second.clone()])[0].0, "PASS");
    let mut quiet = first;
    silent(&mut quiet);
    let found = together(&[quiet, second]);
    assert_eq!(found[0].0, "FAIL");
    assert!(found[0].1.contains("the way back"), "{}", found[0].1);
}

#[test]
fn what_began_just_now_may_yet_be_answered() {
    let mut fresh = first_leg();
    silent(&mut fresh);
    fresh.started = at(119);
    assert_eq!(together(&[fresh])[0].1, "alone");
}
