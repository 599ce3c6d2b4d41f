//! The cluster behaves as the lab's own does.

use anyhow::{Context, Result};
use nodescope_tests::lab::{PodSpec, Protocol, Service};
use serde_json::Value;

use crate::{eventually, get, kubectl, real};

/// Pods reach pods, machines, services by name, and themselves through their own service; and
/// kubectl shows what there is.
#[test]
fn everything_reaches_everything() -> Result<()> {
    let Some(lab) = real("rreach")? else {
        return Ok(());
    };
    let web = lab.pod("web")?;
    for to in ["10.244.0.16", "10.244.1.15"] {
        let seen = get(&web.netns(), &[&format!("http://{to}:8080/")])?;
        assert_eq!(seen["peer"], seen["local"], "pods keep their address: {to}");
    }
    for to in ["10.224.1.2", "10.1.2.3"] {
        let seen = get(&web.netns(), &[&format!("http://{to}:8080/")])?;
        let peer = seen["peer"].as_str().unwrap_or_default();
        assert!(peer.starts_with("10.224.0.4:"), "masqueraded: {seen}");
    }
    for (service, backend) in [("web2", "10.244.0.16"), ("api", "10.244.1.15")] {
        let url = format!("http://{service}.default.svc.cluster.local/");
        let seen = get(&web.netns(), &[&url, "--dns", "10.0.0.10"])?;
        assert_eq!(seen["peer"], seen["local"], "no masquerade to {service}");
        let local = seen["local"].as_str().context("no address")?;
        let entries = lab.conntrack(0)?;
        let entry = entries
            .iter()
            .find(|e| format!("{}:{}", e.original.src, e.original.sport) == local)
            .context("no entry")?;
        assert_eq!(entry.translated().dst.to_string(), backend);
        assert_eq!(entry.translated().dport, 8080);
    }
    let seen = get(&web.netns(), &["http://10.0.37.21/"])?;
    let peer = seen["peer"].as_str().unwrap_or_default();
    assert!(peer.starts_with("10.244.0.1:"), "hairpin: {seen}");

    let pods = kubectl(&lab, &["get", "pods", "-A", "-o", "wide", "--no-headers"])?;
    for pod in lab.pods() {
        let line = pods.lines().find(|line| line.contains(&pod.name()));
        let line = line.with_context(|| format!("{} is not in {pods}", pod.name()))?;
        assert!(line.contains(&pod.ip().to_string()), "{line}");
        assert!(line.contains("Running"), "{line}");
    }
    let nodes = kubectl(&lab, &["get", "nodes", "--no-headers"])?;
    assert_eq!(nodes.lines().count(), lab.topology().nodes.len(), "{nodes}");
    Ok(())
}

/// The controller writes EndpointSlices and kube-proxy follows, as pods come and go.
#[test]
fn services_follow_their_pods() -> Result<()> {
    let Some(lab) = real("rfollow")? else {
        return Ok(());
    };
    let front = Service::new("default", "front", [10, 0, 9, 9].into())
        .port("http", Protocol::Tcp, 80, 8080)
        .node_port(30080);
    lab.add_service(front)?;
    let outside = || lab.vm().run_lab(["http-get", "http://10.224.0.5:30080/"]);
    assert!(!outside()?.status.success(), "no endpoints yet");
    let pod = |short: &str, node| PodSpec::new(short, node).app("front").serving();
    lab.add_pod(pod("front1", 0))?;
    lab.add_pod(pod("front2", 1))?;
    outside()?.success()?;
    let web = lab.pod("web")?;
    let argv = ["http-get", "http://10.0.9.9/", "--count", "40"];
    web.run_lab(argv)?.success()?;
    let served = |short: &str| -> Result<usize> { Ok(lab.served(short)?.len()) };
    let (first, second) = (served("front1")?, served("front2")?);
    assert_eq!(first + second, 41);
    assert!(first > 0 && second > 0, "{first} and {second}");

    lab.remove_pod("front2")?;
    web.run_lab(argv)?.success()?;
    assert_eq!(served("front1")?, first + 40);

    let args = ["get", "endpointslices", "-o", "json"];
    let all: Value = serde_json::from_str(&kubectl(&lab, &args)?)?;
    let items = all["items"].as_array().context("no list")?;
    let slice = items
        .iter()
        .find(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "front")
        .context("no slice of the service")?;
    let manager = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(manager, "endpointslice-controller.k8s.io");
    let endpoint = &slice["endpoints"][0];
    assert_eq!(
        endpoint["addresses"][0],
        lab.pod("front1")?.ip().to_string()
    );
    Ok(())
}

/// The health-check node port, which kube-proxy answers itself: 200 where the backend is, 503
/// elsewhere, and the other way round when the backend has moved.
#[test]
fn the_health_check_node_port_follows_the_backend() -> Result<()> {
    let Some(lab) = real("rhealth")? else {
        return Ok(());
    };
    lab.add_service(
        Service::new("default", "local", [10, 0, 77, 7].into())
            .port("http", Protocol::Tcp, 80, 8080)
            .load_balancer(lab.topology().vip(7))
            .local(31007),
    )?;
    let health = |node: usize| -> Result<(u16, Value)> {
        let url = format!("http://{}:31007/healthz", lab.topology().nodes[node].ip);
        let line = ["curl", "-s", "-w", "\n%{http_code}", &url];
        let text = lab.fabric().run(line)?.success()?;
        let (body, code) = text.rsplit_once('\n').context("no answer")?;
        Ok((code.parse()?, serde_json::from_str(body)?))
    };
    let answers = |node, code: u16, count: u64| {
        let what = format!("node{node} to answer {code}");
        eventually(&what, || {
            let (now, body) = health(node)?;
            Ok(now == code && body["localEndpoints"] == count)
        })
    };
    answers(0, 503, 0)?;
    for (short, here, there) in [("local1", 1, 0), ("local2", 0, 1)] {
        lab.add_pod(PodSpec::new(short, here).app("local").serving())?;
        answers(here, 200, 1)?;
        answers(there, 503, 0)?;
        let (_, body) = health(here)?;
        let service = serde_json::json!({"namespace": "default", "name": "local"});
        assert_eq!(body["service"], service);
        lab.remove_pod(short)?;
    }
    answers(0, 503, 0)
}
