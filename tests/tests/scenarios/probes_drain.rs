//! Scenario 25 across a drain, and what services and names are while pods come and go.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Lab, Model, PodSpec, Protocol, Service};
use serde_json::Value;

use crate::common::{agent, between, closed, eventually, get, lab};
use crate::probes_support::{count, lb_target, lines};
use crate::probes_topologies::{HEALTH, build};

fn kubectl(lab: &Lab, args: &[&str]) -> Result<()> {
    let config = lab.kubeconfig_path().context("no API server")?;
    let mut command = Command::new("kubectl");
    let output = command
        .arg("--kubeconfig")
        .arg(config)
        .args(args)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {args:?}: {said}");
    Ok(())
}

/// A node is cordoned and its pods end: the endpoints go, the health answer flips, the load
/// balancer sends nobody any more; all of it is in the timeline.
#[test]
fn scenario_25_timeline_of_a_drain() -> Result<()> {
    let Some(lab) = build("s25d", Model::Kubenet)? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let near = lab.topology().vip(3);
    eventually("a good answer that agrees", || {
        let target = lb_target(&agent, HEALTH)?;
        Ok(target["agrees"] == true && count(&target["local_endpoints"]) == Some(1))
    })?;
    lab.lb(near).wait_nodes(&[0])?;
    get(&lab.vm(), &format!("http://{near}/"))?;
    kubectl(&lab, &["cordon", &lab.topology().nodes[0].name])?;
    lab.remove_pod("front")?;
    lab.lb(near).wait_nodes(&[])?;
    let mut all = Vec::new();
    eventually("the timeline has the end of the traffic", || {
        all = lines(&agent, &["probes", "--timeline", "near", "-o", "json"])?;
        Ok(all.iter().any(|one| one["what"] == "traffic-stopped"))
    })?;
    let at = |what: &str, part: &str| -> Result<usize> {
        let found = all.iter().position(|one: &Value| {
            let detail = one["detail"].as_str().unwrap_or_default();
            one["what"] == what && detail.contains(part)
        });
        found.with_context(|| format!("no {what} {part} in {all:?}"))
    };
    at("endpoints", "ready on this node 1 -> 0")?;
    at("answer", "-> failure (503), localEndpoints 0")?;
    let target = lb_target(&agent, HEALTH)?;
    assert_eq!(target["agrees"], true, "{target}");
    Ok(())
}

/// A service that nobody stands behind: `services` and `path` say so.
#[test]
fn a_service_without_endpoints_is_told_of() -> Result<()> {
    let Some(lab) = lab("noend")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let [a, b, ..] = lab.topology().dns.octets();
    let service = Service::new("default", "empty", [a, b, 9, 7].into());
    lab.add_service(service.port("http", Protocol::Tcp, 80, 8080))?;
    let ip = lab.service("default", "empty")?.cluster_ip;
    eventually("the service is known, without endpoints", || {
        let all = lines(&agent, &["services", "--all", "-o", "json"])?;
        Ok(all
            .iter()
            .any(|one| one["name"] == "empty" && one["ready"] == 0))
    })?;
    let url = format!("http://{ip}/");
    let outcome = lab
        .pod("web")?
        .run(["curl", "-s", "--max-time", "1", &url])?;
    ensure!(outcome.success().is_err(), "somebody answered");
    eventually("the path says that there is no backend", || {
        let path = crate::path::path(&[&agent], &["--to-ip", &ip.to_string()])?;
        ensure!(path["stopped"]["reason"] == "no-backend", "{path}");
        Ok(path["service"] == "default/empty")
    })
}

/// An address that a new pod takes over as soon as the old one is gone: each connection has the
/// name of the pod that it was with.
#[test]
fn an_address_used_again_has_the_name_of_then() -> Result<()> {
    let Some(lab) = lab("again")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let web = lab.pod("web")?;
    let first = lab.add_pod(PodSpec::new("first", 0).serving())?;
    let ip = first.ip();
    let ask = |port: &str| -> Result<()> {
        let url = format!("http://{ip}:8080/");
        let argv = [
            "curl",
            "-sS",
            "--fail",
            "-o",
            "/dev/null",
            "--local-port",
            port,
            &url,
        ];
        web.run(argv)?.success().map(drop)
    };
    ask("40001")?;
    lab.remove_pod("first")?;
    let second = lab.add_pod(PodSpec::new("second", 0).ip(ip).serving())?;
    assert_eq!(second.ip(), ip);
    ask("40002")?;
    for (port, pod) in [(40_001, &first), (40_002, &second)] {
        let record = closed(
            &agent,
            &format!("the connection to {}", pod.name()),
            |record| {
                between(record, &web.ip().to_string(), &ip.to_string(), 8080)
                    && record
                        .tuple("/nat/original")
                        .is_some_and(|(from, _)| from.port() == port)
            },
        )?;
        assert_eq!(
            record.flow("/destination/pod_name"),
            &Value::from(pod.name())
        );
    }
    Ok(())
}
