//! `nodescope check` on real traffic: each check passes on a cluster that is well, and fails for
//! the right reason on one that is not.

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, MasqConfig, Model, PodSpec, Probe, ProbeKind};
use serde_json::{Value, json};

use crate::common::{agent, eventually, get, lab, models};
use crate::service_policy::{counted, start};

/// What a check says on one node; the exit code must go with it.
pub fn check(agent: &Agent, name: &str) -> Result<(String, String)> {
    check_with(agent, name, &[])
}

/// As [`check`], with more arguments: agents of other nodes, for one.
pub fn check_with(agent: &Agent, name: &str, more: &[&str]) -> Result<(String, String)> {
    let output = agent.cli(&[&["check", name, "-o", "json"], more].concat())?;
    let text = String::from_utf8(output.stdout)?;
    let value: Value = serde_json::from_str(text.trim()).with_context(|| {
        format!(
            "check said {text:?} {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let word = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let code = i32::from(word("verdict") == "FAIL");
    ensure!(
        output.status.code() == Some(code),
        "{text}: {}",
        output.status
    );
    ensure!(!word("evidence").is_empty(), "no evidence: {text}");
    Ok((word("verdict"), word("evidence")))
}

/// Waits until a check says so, and gives its evidence.
pub fn says(agent: &Agent, name: &str, wanted: &str) -> Result<String> {
    says_of(agent, name, wanted, "")
}

/// As [`says`], with a word that the evidence has to have.
pub fn says_of(agent: &Agent, name: &str, wanted: &str, word: &str) -> Result<String> {
    says_with(agent, name, wanted, word, &[])
}

/// As [`says_of`], with more arguments.
pub fn says_with(
    agent: &Agent,
    name: &str,
    wanted: &str,
    word: &str,
    more: &[&str],
) -> Result<String> {
    let mut found = String::new();
    eventually(&format!("{name} says {wanted}"), || {
        let (verdict, evidence) = check_with(agent, name, more)?;
        ensure!(
            verdict == wanted && evidence.contains(word),
            "{verdict}: {evidence}"
        );
        found = evidence;
        Ok(true)
    })?;
    Ok(found)
}

fn rule(lab: &Lab, node: usize, rule: &str) -> Result<()> {
    let line = format!("iptables -w -t nat {rule}");
    let argv: Vec<&str> = line.split(' ').collect();
    lab.node(node).tool(&argv, "").map(drop)
}

/// Nothing seen: UNKNOWN all over but for what the node knows of itself; never PASS.
#[test]
fn check_says_unknown_where_no_traffic_was_seen() -> Result<()> {
    let Some(lab) = lab("c00")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    for name in [
        "pod-to-pod-no-snat",
        "egress-snat-as-configured",
        "local-policy-preserves-client",
        "cluster-policy-second-hop",
        "healthz-matches-endpoints",
        "lb-probes-arriving",
        "kubelet-probes-passing",
        "cross-node-route",
        "dns-answers",
        "snat-port-headroom",
    ] {
        let (verdict, evidence) = check(&agent, name)?;
        assert_eq!(verdict, "UNKNOWN", "{name}: {evidence}");
    }
    let output = agent.cli(&["check", "no-such-check"])?;
    let error = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains("no-such-check") && error.contains("dns-answers"),
        "{error}"
    );
    assert_eq!(error.trim().lines().count(), 1);
    Ok(())
}

/// Pods among each other: kept, then masqueraded by a rule too many.
#[test]
fn scenario_07_check_finds_pods_masqueraded_among_each_other() -> Result<()> {
    let Some(lab) = lab("c07")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let url = format!("http://{}:8080/", api.ip());
    get(&web.netns(), &url)?;
    let evidence = says(&agent, "pod-to-pod-no-snat", "PASS")?;
    assert!(evidence.contains(&web.name()), "{evidence}");
    rule(
        &lab,
        0,
        "-I POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE",
    )?;
    let seen = get(&web.netns(), &url)?;
    let evidence = says(&agent, "pod-to-pod-no-snat", "FAIL")?;
    let peer = seen["peer"].as_str().context("no peer")?;
    assert!(evidence.contains(peer), "{evidence}");
    Ok(())
}

/// The route to the other node's pods goes, and comes back.
#[test]
fn scenario_08_check_finds_the_missing_route() -> Result<()> {
    let Some(lab) = lab("c08")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let url = format!("http://{}:8080/", api.ip());
    get(&web.netns(), &url)?;
    says(&agent, "cross-node-route", "PASS")?;
    lab.remove_route("10.244.1.0/24")?;
    let _ = web.run(["curl", "-s", "--max-time", "1", &url])?;
    let evidence = says(&agent, "cross-node-route", "FAIL")?;
    for words in [
        "eth0",
        "route table",
        "10.244.1.0/24",
        &lab.topology().nodes[1].name,
    ] {
        assert!(evidence.contains(words), "{words} not in {evidence}");
    }
    lab.restore_route("10.244.1.0/24")?;
    get(&web.netns(), &url)?;
    says(&agent, "cross-node-route", "PASS")?;
    Ok(())
}

/// The masquerade configuration applied, then edited and not applied.
#[test]
fn scenario_14_check_finds_a_configuration_that_was_not_applied() -> Result<()> {
    if !nodescope_tests::lab::is_root() {
        return Ok(());
    }
    let lab = Lab::builder("c14").topology(Model::Overlay).start()?;
    let agent = agent(&lab, 0)?;
    let web = lab.pod("web")?;
    let url = format!("http://{}:8080/", lab.topology().vm.ip());
    get(&web.netns(), &url)?;
    says(&agent, "egress-snat-as-configured", "PASS")?;
    says(&agent, "masq-config-applied", "PASS")?;
    let edited = MasqConfig {
        non_masquerade: vec![lab.topology().pod_range, lab.topology().vnet],
        ..lab.masq_config().context("no configuration")?
    };
    lab.set_masq_config(&edited, false)?;
    for name in ["egress-snat-as-configured", "masq-config-applied"] {
        let mut evidence = String::new();
        eventually(&format!("{name} fails"), || {
            get(&web.netns(), &url)?;
            let (verdict, said) = check(&agent, name)?;
            evidence = said;
            Ok(verdict == "FAIL")
        })?;
        assert!(evidence.contains("translated to"), "{evidence}");
    }
    Ok(())
}

/// Policy Local and the second hop of policy Cluster, as they should be and not.
#[test]
fn scenario_20_check_finds_policies_that_are_not_kept() -> Result<()> {
    let Some((lab, agents)) = start("c20", Model::Kubenet)? else {
        return Ok(());
    };
    let (open, near) = (lab.topology().vip(1), lab.topology().vip(2));
    lab.lb(near).wait_nodes(&[1])?;
    lab.lb(open).steer(0)?;
    get(&lab.vm(), &format!("http://{near}/"))?;
    get(&lab.vm(), &format!("http://{open}/"))?;
    says(&agents[1], "local-policy-preserves-client", "PASS")?;
    says(&agents[0], "cluster-policy-second-hop", "PASS")?;
    let vm = lab.topology().vm.ip();
    // The node that has the backend masquerades all the same.
    rule(&lab, 1, &format!("-I POSTROUTING -s {vm} -j MASQUERADE"))?;
    get(&lab.vm(), &format!("http://{near}/"))?;
    let evidence = says(&agents[1], "local-policy-preserves-client", "FAIL")?;
    assert!(evidence.contains("default/near"), "{evidence}");
    rule(&lab, 1, &format!("-D POSTROUTING -s {vm} -j MASQUERADE"))?;
    // The node in between does not: the answer does not come back through it.
    rule(&lab, 0, &format!("-I POSTROUTING -s {vm} -j ACCEPT"))?;
    let url = format!("http://{open}/");
    let outcome = lab.vm().run(["curl", "-s", "--max-time", "8", &url])?;
    ensure!(outcome.success().is_err(), "answered past the node");
    counted(&agents, "open", "external_kept", 1)?;
    let evidence = says(&agents[0], "cluster-policy-second-hop", "FAIL")?;
    assert!(evidence.contains("another way back"), "{evidence}");
    Ok(())
}

/// Health checks: arriving and in agreement, then stopped, then contradicted by the API.
#[test]
fn scenario_24_check_holds_health_answers_against_the_endpoints() -> Result<()> {
    for model in models(24) {
        let Some((lab, agents)) = start("c24", model)? else {
            return Ok(());
        };
        health_against_endpoints(&lab, &agents).with_context(|| format!("{model:?}"))?;
    }
    Ok(())
}

fn health_against_endpoints(lab: &Lab, agents: &[Agent; 2]) -> Result<()> {
    says(&agents[1], "lb-probes-arriving", "PASS")?;
    says(&agents[1], "healthz-matches-endpoints", "PASS")?;
    // One endpoint more on the node, and kube-proxy does not follow: the label keeps a real one
    // from it.
    lab.control_plane()?.apply(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "near-more", "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": "near",
                "service.kubernetes.io/service-proxy-name": "another",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [lab.pod("api")?.ip().to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": lab.topology().nodes[1].name,
        }],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }))?;
    let evidence = says(&agents[1], "healthz-matches-endpoints", "FAIL")?;
    assert!(evidence.contains("default/near"), "{evidence}");
    lab.pause_lb_probes(true)?;
    let evidence = says(&agents[1], "lb-probes-arriving", "FAIL")?;
    assert!(evidence.contains("have stopped"), "{evidence}");
    Ok(())
}

/// The kubelet's probes: all well, then one that is refused.
#[test]
fn scenario_27_check_finds_probes_that_fail() -> Result<()> {
    let Some(lab) = lab("c27")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let well = Probe::http(ProbeKind::Readiness, 8080, "/ready").every(1);
    lab.add_pod(PodSpec::new("well", 0).serving().probe(well))?;
    says(&agent, "kubelet-probes-passing", "PASS")?;
    let sick = Probe::http(ProbeKind::Liveness, 8080, "/status/500").every(1);
    lab.add_pod(PodSpec::new("sick", 0).serving().probe(sick))?;
    let evidence = says_of(&agent, "kubelet-probes-passing", "FAIL", "500")?;
    assert!(evidence.contains("default/sick"), "{evidence}");
    Ok(())
}

/// Addresses, ports and connection tracking: enough; a pod range that is too small is not.
#[test]
fn scenario_03_check_finds_a_pod_range_that_is_full() -> Result<()> {
    let Some(lab) = lab("c03")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    says(&agent, "pod-cidr-headroom", "PASS")?;
    let evidence = says(&agent, "conntrack-headroom", "PASS")?;
    let limit = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")?;
    assert!(evidence.contains(limit.trim()), "{evidence}");
    let web = lab.pod("web")?;
    let url = format!("http://{}:8080/", lab.topology().vm.ip());
    get(&web.netns(), &url)?;
    let api = lab.control_plane()?;
    let node = api.written("Node", "", &lab.topology().nodes[0].name);
    let mut node = node.context("no node")?;
    let small = format!("{}/32", web.ip());
    node["spec"]["podCIDR"] = small.as_str().into();
    node["spec"]["podCIDRs"] = json!([small]);
    api.apply(node)?;
    let evidence = says(&agent, "pod-cidr-headroom", "FAIL")?;
    assert!(evidence.contains("1 of 1"), "{evidence}");
    Ok(())
}
