//! `nodescope check` over the agents of both nodes: what one cannot know alone.

use anyhow::Result;
use nodescope_tests::lab::Agent;

use crate::checks::{says, says_of, says_with};
use crate::common::{agent, get, lab};

/// What both agents together say.
fn both(agents: &[Agent; 2], name: &str, wanted: &str, word: &str) -> Result<String> {
    let other = format!("unix://{}", agents[1].socket().display());
    says_with(&agents[0], name, wanted, word, &["--server", &other])
}

/// A pod that is reached and does not answer, and a route that is missing, look the same from the
/// sending node; both nodes tell them apart.
#[test]
fn scenario_08_check_of_both_nodes_tells_a_silent_pod_from_a_missing_route() -> Result<()> {
    let Some(lab) = lab("c08n")? else {
        return Ok(());
    };
    let agents = [agent(&lab, 0)?, agent(&lab, 1)?];
    let name = "cross-node-route";
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let url = format!("http://{}:8080/", api.ip());
    get(&web.netns(), &url)?;
    let evidence = both(&agents, name, "PASS", "seen on 1 of 2 nodes")?;
    let nodes = &lab.topology().nodes;
    for words in [
        format!("{}: {} answers", nodes[0].name, nodes[1].name),
        format!("nothing to go by on {}", nodes[1].name),
    ] {
        assert!(evidence.contains(&words), "{words} not in {evidence}");
    }
    both(
        &agents,
        "pod-to-pod-no-snat",
        "PASS",
        "seen on 2 of 2 nodes",
    )?;

    let drop = "iptables -w -I INPUT -p tcp --dport 8080 -j DROP";
    let argv: Vec<&str> = drop.split(' ').collect();
    api.netns().tool(&argv, "")?;
    let _ = web.run(["curl", "-s", "--max-time", "1", &url])?;
    // Alone, the sender can only guess.
    says(&agents[0], name, "FAIL")?;
    let reached = format!("{} is reached", nodes[1].name);
    both(&agents, name, "UNKNOWN", &reached)?;

    lab.remove_route("10.244.1.0/24")?;
    let _ = web.run(["curl", "-s", "--max-time", "1", &url])?;
    let lost = format!("never seen on {}", nodes[1].name);
    let evidence = both(&agents, name, "FAIL", &lost)?;
    assert!(evidence.contains("fails on 1 of 2 nodes"), "{evidence}");
    assert!(evidence.contains("route table"), "{evidence}");
    Ok(())
}

/// An agent that does not answer leaves open what its node saw.
#[test]
fn check_passes_nothing_for_a_node_that_does_not_answer() -> Result<()> {
    let Some(lab) = lab("c00s")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    get(&web.netns(), &format!("http://{}:8080/", web2.ip()))?;
    says_of(&agent, "pod-to-pod-no-snat", "PASS", &web.name())?;
    let gone = format!("unix://{}", lab.run_dir().join("gone.sock").display());
    let name = "pod-to-pod-no-snat";
    let evidence = says_with(
        &agent,
        name,
        "UNKNOWN",
        "did not answer",
        &["--server", &gone],
    )?;
    assert!(evidence.contains(&gone), "{evidence}");
    Ok(())
}
