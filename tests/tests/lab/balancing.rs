//! Load balancers, node ports and health checks, with sockets as witnesses.

use anyhow::{Context, Result};
use nodescope_tests::lab::{Lab, Model, PodSpec, Protocol, Service};
use serde_json::Value;

use crate::{TIMEOUT, address, build, get};

const HEALTH_PORT: u16 = 31_990;

/// A lab with the Deployment `front` (one replica, on node 1) behind two load balancers: `open`
/// with policy Cluster, `near` with policy Local.
fn start(name: &str, model: Model) -> Result<Option<Lab>> {
    let topology = nodescope_tests::lab::Topology::from(model);
    let [a, b, ..] = topology.dns.octets();
    let service = |name: &str, last: u8, vip: u8| {
        let mut service = Service::new("default", name, [a, b, 9, last].into())
            .port("http", Protocol::Tcp, 80, 8080)
            .load_balancer(topology.vip(vip));
        service.selector = Some(("app".to_owned(), "front".to_owned()));
        service
    };
    let (open, near) = (service("open", 1, 1), service("near", 2, 2));
    build(name, model, |lab| {
        lab.pod(PodSpec::new("front1", 1).app("front").serving())
            .service(open)
            .service(near.local(HEALTH_PORT))
    })
}

fn vip(lab: &Lab, number: u8) -> String {
    format!("http://{}/", lab.topology().vip(number))
}

/// `GET /healthz` of a node's port: status and body.
fn healthz(lab: &Lab, node: usize, port: u16) -> Result<(u16, Value, String)> {
    let url = format!("http://{}:{port}/healthz", lab.topology().nodes[node].ip);
    let argv = ["curl", "-s", "-i", "-m", "5", &url];
    let text = lab.vm().run(argv)?.success()?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let head = head.to_ascii_lowercase();
    Ok((status, serde_json::from_str(body)?, head))
}

#[test]
fn policy_cluster_loses_the_client_and_policy_local_keeps_it() -> Result<()> {
    for model in Model::ALL {
        let Some(lab) = start("vip", model)? else {
            return Ok(());
        };
        let (topology, client) = (lab.topology(), lab.vm());
        let own = topology.vm.ip().to_string();
        // Through node 0, whose packets go on to the endpoint on node 1.
        lab.lb(topology.vip(1)).steer(0)?;
        let seen = get(&client, &[&vip(&lab, 1)])?;
        assert_eq!(address(&seen["local"]), own);
        let node0 = topology.nodes[0].ip.to_string();
        assert_eq!(address(&seen["peer"]), node0, "{model:?}: second hop");
        let entries = lab.conntrack(0)?;
        let entry = entries.iter().find(|e| e.original.dst == topology.vip(1));
        let translated = entry.context("no entry on node 0")?.translated();
        assert_eq!(translated.dst, lab.pod("front1")?.ip());
        assert_eq!(translated.src.to_string(), node0);

        // Policy Local: only node 1 is healthy, and the pod sees the client.
        lab.lb(topology.vip(2)).wait_nodes(&[1])?;
        let seen = get(&client, &[&vip(&lab, 2)])?;
        assert_eq!(seen["peer"], seen["local"], "{model:?}: client kept");
        let far = get(&lab.onprem(), &[&vip(&lab, 2)])?;
        assert_eq!(far["peer"], far["local"], "{model:?}: from on-premises too");
        // A node without an endpoint drops it.
        lab.lb(topology.vip(2)).steer(0)?;
        let args = ["http-get", &vip(&lab, 2), "--timeout", "1"];
        assert!(!client.run_lab(args)?.status.success());

        // Pods do not cross the load balancer, and keep their address, from any node.
        let web = lab.pod("web")?;
        let seen = get(&web.netns(), &[&vip(&lab, 2)])?;
        assert_eq!(seen["peer"], seen["local"], "{model:?}: from a pod");
        // Probes of the node port reach it too, all the time.
        let served = lab.served("front1")?;
        assert!(served.iter().any(|taken| taken["peer"] == seen["local"]));
    }
    Ok(())
}

#[test]
fn node_ports_lead_to_pods_from_outside() -> Result<()> {
    let Some(lab) = start("nodeport", Model::Overlay)? else {
        return Ok(());
    };
    let service = lab.service("default", "open")?;
    let port = service.ports[0].node_port.context("no node port")?;
    assert!((30_000..32_768).contains(&port));
    for (node, name) in lab.topology().nodes.iter().zip(["10.224.0.4", "10."]) {
        let seen = get(&lab.vm(), &[&format!("http://{}:{port}/", node.ip)])?;
        assert!(address(&seen["peer"]).starts_with(name), "{seen}");
        assert_ne!(seen["peer"], seen["local"]);
    }
    Ok(())
}

#[test]
fn health_answers_and_steering_follow_the_endpoints() -> Result<()> {
    let Some(lab) = start("health", Model::AzureCni)? else {
        return Ok(());
    };
    let near = lab.topology().vip(2);
    let (status, body, head) = healthz(&lab, 1, HEALTH_PORT)?;
    assert_eq!((status, &body["localEndpoints"]), (200, &1.into()));
    assert_eq!(body["service"]["name"], "near");
    assert_eq!(body["serviceProxyHealthy"], true);
    assert!(head.contains("x-load-balancing-endpoint-weight: 1"));
    let (status, body, _) = healthz(&lab, 0, HEALTH_PORT)?;
    assert_eq!((status, &body["localEndpoints"]), (503, &0.into()));

    // Not ready: the answer flips at once, traffic stops when the probes have told.
    lab.set_ready("front1", false)?;
    assert_eq!(healthz(&lab, 1, HEALTH_PORT)?.0, 503);
    lab.lb(near).wait_nodes(&[])?;
    let args = ["http-get", &vip(&lab, 2), "--timeout", "1"];
    assert!(!lab.vm().run_lab(args)?.status.success());
    lab.set_ready("front1", true)?;
    lab.lb(near).wait_nodes(&[1])?;
    get(&lab.vm(), &[&vip(&lab, 2)])?;

    // A replica on the other node, then the first one is drained.
    lab.scale("front", 2)?;
    lab.lb(near).wait_nodes(&[0, 1])?;
    lab.drain("front1")?;
    let store = lab.api().context("no API server")?.store();
    let ending = store.get("Pod", "default", &lab.pod("front1")?.name());
    let ending = ending.context("no object")?;
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(healthz(&lab, 1, HEALTH_PORT)?.0, 503);
    lab.lb(near).wait_nodes(&[0])?;
    lab.remove_pod("front1")?;
    let seen = get(&lab.vm(), &[&vip(&lab, 2)])?;
    assert_eq!(seen["peer"], seen["local"]);

    // The prober's own record, and the node's.
    let probes = lab.lb(near).probes();
    let outcomes = |node: u64| probes.iter().filter(move |p| p["node"] == node);
    assert!(outcomes(1).any(|p| p["detail"] == 200) && outcomes(1).any(|p| p["detail"] == 503));
    let asked = lab.health_questions(1);
    let from_platform = |q: &&Value| address(&q["from"]) == "168.63.129.16";
    assert!(
        asked
            .iter()
            .any(|q| from_platform(&q) && q["status"] == 503)
    );

    // kube-proxy itself not well.
    let proxy = |node| healthz(&lab, node, 10256).map(|(status, ..)| status);
    assert_eq!(proxy(0)?, 200);
    lab.set_proxy_healthy(0, false)?;
    assert_eq!(proxy(0)?, 503);
    lab.lb(near).wait_nodes(&[])?;
    Ok(())
}

#[test]
fn probes_stop_when_told_and_old_answers_are_shorter() -> Result<()> {
    let topology = nodescope_tests::lab::Topology::kubenet();
    let service = Service::new("default", "old", [10, 0, 9, 9].into())
        .port("http", Protocol::Tcp, 80, 8080)
        .load_balancer(topology.vip(1))
        .local(HEALTH_PORT);
    let made = build("pause", Model::Kubenet, |lab| {
        lab.old_health_answers().service(service)
    })?;
    let Some(lab) = made else {
        return Ok(());
    };
    let (status, body, head) = healthz(&lab, 0, HEALTH_PORT)?;
    assert_eq!((status, &body["localEndpoints"]), (503, &0.into()));
    assert!(body.get("serviceProxyHealthy").is_none());
    assert!(!head.contains("x-load-balancing"));
    lab.pause_lb_probes(true)?;
    let count = lab.lb(topology.vip(1)).probes().len();
    lab.pause_lb_probes(false)?;
    let more = || lab.lb(topology.vip(1)).probes().len() > count;
    nodescope_tests::lab::wait_for("probes again", TIMEOUT, more)
}

#[test]
fn session_affinity_keeps_a_client_with_its_endpoint() -> Result<()> {
    let service = Service::new("default", "sticky", [10, 0, 9, 8].into())
        .port("http", Protocol::Tcp, 80, 8080)
        .session_affinity(600);
    let replica = |short: &str, node| PodSpec::new(short, node).app("sticky").serving();
    let made = build("sticky", Model::Overlay, |lab| {
        lab.pod(replica("s1", 0))
            .pod(replica("s2", 1))
            .service(service)
    })?;
    let Some(lab) = made else {
        return Ok(());
    };
    let argv = ["http-get", "http://10.0.9.8/", "--count", "20"];
    lab.pod("web")?.run_lab(argv)?.success()?;
    let mut counts = [lab.served("s1")?.len(), lab.served("s2")?.len()];
    counts.sort_unstable();
    assert_eq!(counts, [0, 20]);
    Ok(())
}
