//! Scenarios 18 to 22: what services do with their clients' addresses, as `nodescope services`
//! tells it, with the backends' sockets as witnesses.

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, Model, PodSpec, Protocol, Service, Topology};
use serde_json::Value;

use crate::common::{agent, eventually, get, metric, models, one};

const HEALTH_PORT: u16 = 31_990;
const NODE_PORT: u16 = 31_080;

/// A lab with one replica of `front`, on node 1, behind `open` (policy Cluster) and `near`
/// (policy Local), and an agent on each node.
pub fn start(name: &str, model: Model) -> Result<Option<(Lab, [Agent; 2])>> {
    if !nodescope_tests::lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(None);
    }
    let topology = Topology::from(model);
    let [a, b, ..] = topology.dns.octets();
    let service = |name: &str, last: u8| {
        let mut service = Service::new("default", name, [a, b, 9, last].into()).port(
            "http",
            Protocol::Tcp,
            80,
            8080,
        );
        service.selector = Some(("app".to_owned(), "front".to_owned()));
        service
    };
    let open = service("open", 1)
        .node_port(NODE_PORT)
        .load_balancer(topology.vip(1));
    let near = service("near", 2)
        .load_balancer(topology.vip(2))
        .local(HEALTH_PORT);
    let lab = Lab::builder(&format!("{name}{}", model.short()))
        .topology(model)
        .lb_probe(std::time::Duration::from_secs(1), 2)
        .pod(PodSpec::new("front1", 1).app("front").serving())
        .service(open)
        .service(near)
        .start()?;
    let agents = [agent(&lab, 0)?, agent(&lab, 1)?];
    Ok(Some((lab, agents)))
}

/// A service as both agents together tell it.
pub fn service(agents: &[Agent; 2], name: &str) -> Result<Value> {
    let other = format!("unix://{}", agents[1].socket().display());
    let output = agents[0].cli(&["services", "--all", "-o", "json", "--server", &other])?;
    ensure!(
        output.status.success(),
        "services: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    for line in text.lines() {
        let value: Value = serde_json::from_str(line)?;
        if value["name"] == name && value["namespace"] == "default" {
            return Ok(value);
        }
    }
    anyhow::bail!("no service {name} in {text}")
}

/// Waits until a count of a service is what it should be, and gives the service.
pub fn counted(agents: &[Agent; 2], name: &str, count: &str, wanted: u64) -> Result<Value> {
    let what = format!("{count} of {name} is {wanted}");
    eventually(&what, || {
        let seen = service(agents, name)?;
        ensure!(seen[count] == wanted, "{seen}");
        Ok(true)
    })?;
    service(agents, name)
}

/// The client's address at the backend was lost, with policy Cluster, by a second hop.
#[test]
fn scenario_18_policy_cluster_loses_the_client_on_a_second_hop() -> Result<()> {
    for model in models(18) {
        let Some((lab, agents)) = start("s18", model)? else {
            return Ok(());
        };
        let vip = lab.topology().vip(1);
        lab.lb(vip).steer(0)?;
        let seen = get(&lab.vm(), &format!("http://{vip}/"))?;
        assert_ne!(seen["peer"], seen["local"], "{model:?}");
        let open = counted(&agents, "open", "external_lost", 1)?;
        assert_eq!(open["policy"], "Cluster");
        assert_eq!(open["client_ip"], "lost", "{open}");
        assert_eq!(open["second_hop"], 1, "{open}");
        assert_eq!(open["agrees"], "yes", "{open}");
        // What the backend's socket saw is what the evidence says.
        let evidence = open["nodes"].to_string();
        let peer = seen["peer"].as_str().context("no peer")?;
        assert!(evidence.contains(&format!("sees {peer}")), "{evidence}");
        let labels = [
            ("service", "open"),
            ("policy", "Cluster"),
            ("client_ip", "lost"),
        ];
        eventually("the metric has it", || {
            let counter = metric(&agents[0], "nodescope_service_connections_total", &labels)?;
            ensure!(counter == Some(1.0), "{counter:?}");
            Ok(true)
        })?;
        // Both legs are one path, the first with its cause.
        let path = crate::path::path_when(
            &[&agents[0], &agents[1]],
            &["--to-ip", &vip.to_string(), "--class", "world-to-pod"],
            |path| crate::path::answered(path, 2),
        )?;
        assert_eq!(path["legs"][0]["nat"]["cause"], "kube-proxy-masquerade");
    }
    Ok(())
}

/// With policy Local the backend is on the node that the client reached, and sees the client.
#[test]
fn scenario_19_policy_local_keeps_the_client() -> Result<()> {
    for model in models(19) {
        let Some((lab, agents)) = start("s19", model)? else {
            return Ok(());
        };
        let vip = lab.topology().vip(2);
        lab.lb(vip).wait_nodes(&[1])?;
        let seen = get(&lab.vm(), &format!("http://{vip}/"))?;
        assert_eq!(seen["peer"], seen["local"], "{model:?}");
        let near = counted(&agents, "near", "external_kept", 1)?;
        assert_eq!(near["policy"], "Local");
        assert_eq!(near["client_ip"], "kept", "{near}");
        assert_eq!(near["second_hop"], 0);
        assert_eq!(near["agrees"], "yes", "{near}");
        assert_eq!(near["health_check_node_port"], HEALTH_PORT);
        let labels = [
            ("service", "near"),
            ("policy", "Local"),
            ("client_ip", "kept"),
        ];
        eventually("the metric has it", || {
            let counter = metric(&agents[1], "nodescope_service_connections_total", &labels)?;
            ensure!(counter == Some(1.0), "{counter:?}");
            Ok(true)
        })?;
        // The health-check port of each node, as its probes had it.
        eventually("both health answers", || {
            let near = service(&agents, "near")?;
            let status = |node: usize| near["nodes"][node]["health"]["status"].clone();
            Ok(status(0) == 503 && status(1) == 200)
        })?;
    }
    Ok(())
}

/// Policy Local whose client is masqueraded after all: they do not agree.
#[test]
fn scenario_20_a_policy_that_is_not_kept_is_told() -> Result<()> {
    for model in models(20) {
        let Some((lab, agents)) = start("s20", model)? else {
            return Ok(());
        };
        policy_not_kept(&lab, &agents)?;
    }
    Ok(())
}

fn policy_not_kept(lab: &Lab, agents: &[Agent; 2]) -> Result<()> {
    let vip = lab.topology().vip(2);
    lab.lb(vip).wait_nodes(&[1])?;
    eventually("no client was seen", || {
        let unseen = service(agents, "near")?;
        ensure!(
            unseen["client_ip"] == "unseen" && unseen["agrees"] == "unknown",
            "{unseen}"
        );
        Ok(true)
    })?;
    let vm = lab.topology().vm.ip().to_string();
    let rule = [
        "iptables",
        "-t",
        "nat",
        "-I",
        "POSTROUTING",
        "-s",
        &vm,
        "-j",
        "MASQUERADE",
    ];
    lab.node(1).tool(&rule, "")?;
    let seen = get(&lab.vm(), &format!("http://{vip}/"))?;
    assert_ne!(seen["peer"], seen["local"]);
    let near = counted(agents, "near", "external_lost", 1)?;
    assert_eq!(
        (&near["client_ip"], &near["agrees"]),
        (&"lost".into(), &"no".into())
    );
    Ok(())
}

/// A pod's call to the load balancer's address is translated on the pod's own node.
#[test]
fn scenario_21_a_call_from_inside_never_crosses_the_load_balancer() -> Result<()> {
    for model in models(21) {
        let Some((lab, agents)) = start("s21", model)? else {
            return Ok(());
        };
        inside_call(&lab, &agents)?;
    }
    Ok(())
}

fn inside_call(lab: &Lab, agents: &[Agent; 2]) -> Result<()> {
    let (web, vip) = (lab.pod("web")?, lab.topology().vip(2));
    let fabric = lab.tcpdump(&lab.fabric(), &format!("tcp and host {vip}"))?;
    let seen = get(&web.netns(), &format!("http://{vip}/"))?;
    assert_eq!(seen["peer"], seen["local"], "a pod keeps its address");
    assert!(fabric.stop_all()?.is_empty(), "it went to the fabric");
    let near = counted(agents, "near", "in_cluster_vip", 1)?;
    assert_eq!(near["client_ip"], "unseen", "{near}");
    let evidence = near["nodes"].to_string();
    assert!(
        evidence.contains("not across the load balancer"),
        "{evidence}"
    );
    crossed(
        &agents[0],
        &[&vip.to_string(), &web.ip().to_string()],
        false,
    )?;
    // From outside it comes through it.
    get(&lab.vm(), &format!("http://{vip}/"))?;
    let vm = lab.topology().vm.ip();
    crossed(&agents[1], &[&vip.to_string(), &vm.to_string()], true)
}

/// Waits until the record and the path of a connection to a load balancer, from a client, say
/// whether it crossed it.
fn crossed(agent: &Agent, [vip, client]: &[&str; 2], wanted: bool) -> Result<()> {
    let filters = ["--to-ip", vip, "--from-ip", client];
    eventually(
        "the path says whether the load balancer was crossed",
        || {
            let path = crate::path::path(&[agent], &filters)?;
            let said = &path["legs"][0]["crossed_load_balancer"];
            ensure!(*said == wanted, "{path}");
            Ok(true)
        },
    )?;
    one(agent, "a record that says so", |record| {
        record.ext("/crossed_load_balancer") == &Value::from(wanted)
            && record.tuple("/nat/original").is_some_and(|(from, to)| {
                from.ip().to_string() == *client && to.ip().to_string() == *vip
            })
    })?;
    Ok(())
}

/// From outside by the port of a node.
#[test]
fn scenario_22_node_port_leads_to_service_and_pod() -> Result<()> {
    for model in models(22) {
        let Some((lab, agents)) = start("s22", model)? else {
            return Ok(());
        };
        let node = lab.topology().nodes[1].ip;
        let seen = get(&lab.vm(), &format!("http://{node}:{NODE_PORT}/"))?;
        let open = counted(&agents, "open", "external_lost", 1)?;
        assert_eq!(open["second_hop"], 0, "{open}");
        let ports = open["ports"].to_string();
        assert!(ports.contains(&format!("80:{NODE_PORT}/TCP")), "{ports}");
        // The load balancer's probes go the same way.
        let client = lab.topology().vm.ip().to_string();
        let filters = ["--service", "default/open", "--from-ip", &client];
        let path = crate::path::path_when(&[&agents[1]], &filters, |path| {
            crate::path::answered(path, 1)
        })?;
        assert_eq!(path["service"], "default/open");
        let last = path["legs"][0]["hops"]
            .as_array()
            .and_then(|hops| hops.last());
        let pod = lab.pod("front1")?;
        assert_eq!(
            last.context("no hops")?["pod"],
            format!("default/{}", pod.name())
        );
        let peer = format!(
            "{}:{}",
            path["remote_sees"]["ip"].as_str().unwrap_or_default(),
            path["remote_sees"]["port"]
        );
        assert_eq!(seen["peer"], peer.as_str(), "{model:?}");
    }
    Ok(())
}
