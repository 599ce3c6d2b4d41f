//! Checks that agents make, put together for the cluster.

use super::check::{Finding, NodeFinding, Outcome};
use super::failure::tell;
use super::servers::{connect, refusal};
use crate::sink::proto::node::checks_client::ChecksClient;
use crate::sink::proto::node::{RunChecksRequest, RunChecksResponse};

/// Asks all agents. One that fails is told about, and its node counts as not known.
///
/// # Errors
/// When all fail, or there is no check of a name.
pub async fn run(addresses: &[String], names: &[String]) -> anyhow::Result<Vec<Finding>> {
    let asked = addresses.iter().map(|address| ask(address, names));
    let answers = futures::future::join_all(asked).await;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for (address, answer) in addresses.iter().zip(answers) {
        match answer {
            Ok(answer) => found.push(answer),
            Err(error) => failures.push((address.clone(), error)),
        }
    }
    if found.is_empty()
        && let Some((_, last)) = failures.pop()
    {
        failures.iter().for_each(|(_, error)| tell(error));
        return Err(last);
    }
    failures.iter().for_each(|(_, error)| tell(error));
    let silent: Vec<String> = failures.into_iter().map(|(address, _)| address).collect();
    Ok(merge(&found, &silent))
}

async fn ask(address: &str, names: &[String]) -> anyhow::Result<RunChecksResponse> {
    let mut client = ChecksClient::new(connect(address).await?);
    let request = RunChecksRequest {
        names: names.to_vec(),
    };
    let answer = client.run(request).await;
    Ok(answer
        .map_err(|status| refusal(address, &status))?
        .into_inner())
}

/// One finding a check: FAIL when a node fails; else what was seen on one node speaks for all,
/// unless the check is about the state of each node, where one not known leaves it open.
fn merge(found: &[RunChecksResponse], silent: &[String]) -> Vec<Finding> {
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
        nodes.extend(silent.iter().map(|address| NodeFinding {
            node: address.clone(),
            outcome: Outcome::Unknown,
            evidence: "the agent did not answer".to_owned(),
        }));
        let order = if check.each_node {
            [Outcome::Fail, Outcome::Unknown, Outcome::Pass]
        } else {
            [Outcome::Fail, Outcome::Pass, Outcome::Unknown]
        };
        let decisive = order
            .iter()
            .find_map(|outcome| nodes.iter().find(|node| node.outcome == *outcome));
        let Some(decisive) = decisive.cloned() else {
            continue;
        };
        let evidence = if nodes.len() > 1 {
            format!("{}: {}", decisive.node, decisive.evidence)
        } else {
            decisive.evidence
        };
        findings.push(Finding {
            name: check.name.clone(),
            outcome: decisive.outcome,
            evidence,
            nodes,
        });
    }
    findings
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
        assert_eq!(merged(["UNKNOWN", "FAIL"], true), Outcome::Fail);
        let silent = ["unix:///gone".to_owned()];
        let found = merge(&[node("a", "PASS", true)], &silent);
        assert_eq!(found[0].outcome, Outcome::Unknown);
        assert_eq!(found[0].nodes.len(), 2);
        assert!(found[0].evidence.contains("did not answer"));
    }
}
