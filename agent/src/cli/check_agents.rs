//! Checks that agents make, put together for the cluster.
//!
//! One that a node fails fails. A check of traffic passes by what any node saw, for a node
//! without such traffic has nothing to say; a check of state needs every node. An agent that did
//! not answer leaves open what no other node fails: what its node saw is not known.

use super::agents::{Agent, ask_all, refusal};
use super::check::{Finding, NodeFinding, Outcome};
use super::check_route;
use crate::sink::proto::node::checks_client::ChecksClient;
use crate::sink::proto::node::{RunChecksRequest, RunChecksResponse};

/// Nodes that fail, or know nothing, that the evidence of a check quotes.
const QUOTED: usize = 3;

/// Asks all agents. One that fails is told about, and its node counts as not known.
///
/// # Errors
/// When all fail, or there is no check of a name.
pub async fn run(
    agents: &[Agent],
    names: &[String],
    full_percent: u32,
) -> anyhow::Result<Vec<Finding>> {
    let request = RunChecksRequest {
        names: names.to_vec(),
        full_percent,
    };
    let mut answers = ask_all(agents, async |to| ask(to, &request).await).await?;
    if answers.given.len() > 1 {
        check_route::refine(&mut answers.given, agents).await;
    }
    Ok(merge(&answers.given, &answers.silent))
}

async fn ask(agent: &Agent, request: &RunChecksRequest) -> anyhow::Result<RunChecksResponse> {
    let mut client = ChecksClient::new(agent.channel().await?);
    let answer = client.run(request.clone()).await;
    Ok(answer
        .map_err(|status| refusal(agent, &status))?
        .into_inner())
}

/// One finding a check.
fn merge(found: &[RunChecksResponse], silent: &[Agent]) -> Vec<Finding> {
    let Some(first) = found.first() else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for check in &first.findings {
        let mut nodes: Vec<NodeFinding> = found
            .iter()
            .filter_map(|answer| {
                let own = answer.findings.iter().find(|one| one.name == check.name)?;
                Some(NodeFinding {
                    node: answer.node.clone(),
                    outcome: outcome(&own.verdict),
                    evidence: own.evidence.clone(),
                })
            })
            .collect();
        nodes.extend(silent.iter().map(|agent| {
            NodeFinding {
                node: agent
                    .node()
                    .map_or_else(|| agent.to_string(), str::to_owned),
                outcome: Outcome::Unknown,
                evidence: "the agent did not answer".to_owned(),
            }
        }));
        let every = check.each_node || !silent.is_empty();
        let outcome = decide(&nodes, every);
        findings.push(Finding {
            name: check.name.clone(),
            outcome,
            evidence: evidence(&nodes, outcome),
            nodes,
        });
    }
    findings
}

/// What the nodes' findings come to; `every` node has to pass, or any.
fn decide(nodes: &[NodeFinding], every: bool) -> Outcome {
    let is = |outcome| move |node: &&NodeFinding| node.outcome == outcome;
    let count = |outcome| nodes.iter().filter(is(outcome)).count();
    let passed = count(Outcome::Pass);
    if count(Outcome::Fail) > 0 {
        Outcome::Fail
    } else if passed == nodes.len() || (passed > 0 && !every) {
        Outcome::Pass
    } else {
        Outcome::Unknown
    }
}

/// By how many nodes of how many, what the first of them say, and where nothing is known.
fn evidence(nodes: &[NodeFinding], outcome: Outcome) -> String {
    if let [only] = nodes {
        return only.evidence.clone();
    }
    let of = |outcome: Outcome| nodes.iter().filter(move |node| node.outcome == outcome);
    let said = |node: &NodeFinding| format!("{}: {}", node.node, node.evidence);
    let deciding = of(outcome).count();
    let quoted = match outcome {
        Outcome::Fail | Outcome::Unknown => QUOTED,
        Outcome::Pass => 1,
    };
    let mut parts = vec![format!(
        "{} {deciding} of {} nodes",
        match outcome {
            Outcome::Fail => "fails on",
            Outcome::Pass => "seen on",
            Outcome::Unknown => "not known on",
        },
        nodes.len()
    )];
    parts.extend(of(outcome).take(quoted).map(said));
    if outcome == Outcome::Pass && deciding < nodes.len() {
        let open: Vec<&str> = of(Outcome::Unknown)
            .map(|node| node.node.as_str())
            .collect();
        parts.push(format!("nothing to go by on {}", open.join(", ")));
    }
    parts.join("; ")
}

fn outcome(verdict: &str) -> Outcome {
    match verdict {
        "PASS" => Outcome::Pass,
        "FAIL" => Outcome::Fail,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::proto::node::CheckFinding;

    fn node(name: &str, verdict: &str, each_node: bool) -> RunChecksResponse {
        RunChecksResponse {
            node: name.to_owned(),
            findings: vec![CheckFinding {
                name: "some-check".to_owned(),
                verdict: verdict.to_owned(),
                evidence: format!("{name} says so"),
                each_node,
            }],
        }
    }

    fn merged(verdicts: [&str; 2], each_node: bool) -> Outcome {
        let [a, b] = verdicts;
        merge(&[node("a", a, each_node), node("b", b, each_node)], &[])[0].outcome
    }

    #[test]
    fn a_node_that_fails_decides_and_one_without_traffic_does_not() {
        assert_eq!(merged(["PASS", "FAIL"], false), Outcome::Fail);
        assert_eq!(merged(["PASS", "UNKNOWN"], false), Outcome::Pass);
        assert_eq!(merged(["UNKNOWN", "UNKNOWN"], false), Outcome::Unknown);
        assert_eq!(merged(["PASS", "UNKNOWN"], true), Outcome::Unknown);
        assert_eq!(merged(["PASS", "PASS"], true), Outcome::Pass);
        assert_eq!(merged(["UNKNOWN", "FAIL"], true), Outcome::Fail);
    }

    #[test]
    fn an_agent_that_is_silent_leaves_open_what_nobody_fails() {
        let silent = [Agent::at("unix:///gone".to_owned())];
        for each_node in [false, true] {
            let found = merge(&[node("a", "PASS", each_node)], &silent);
            assert_eq!(found[0].outcome, Outcome::Unknown);
            assert_eq!(found[0].nodes.len(), 2);
            assert!(found[0].evidence.contains("did not answer"));
        }
        let found = merge(&[node("a", "FAIL", false)], &silent);
        assert_eq!(found[0].outcome, Outcome::Fail);
    }

    #[test]
    fn evidence_says_how_many_nodes_had_some() {
        let told = |verdicts: [&str; 2]| {
            let [a, b] = verdicts;
            let found = merge(&[node("a", a, false), node("b", b, false)], &[]);
            found[0].evidence.clone()
        };
        assert_eq!(
            told(["UNKNOWN", "PASS"]),
            "seen on 1 of 2 nodes; b: b says so; nothing to go by on a"
        );
        assert_eq!(told(["PASS", "PASS"]), "seen on 2 of 2 nodes; a: a says so");
        assert_eq!(
            told(["FAIL", "FAIL"]),
            "fails on 2 of 2 nodes; a: a says so; b: b says so"
        );
        let alone = merge(&[node("a", "PASS", false)], &[]);
        assert_eq!(alone[0].evidence, "a says so");
    }
}
