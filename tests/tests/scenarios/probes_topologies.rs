//! Scenarios 23 to 27 on every network model, with the lab's load balancer, kube-proxy's health
//! answers and kubelets: what they themselves saw is the witness.

use std::time::Duration;

use anyhow::{Context, Result};
use nodescope_tests::lab::{
    self, Agent, Lab, Model, PodSpec, Probe, ProbeKind, Protocol, Service, Topology,
};
use serde_json::Value;

use crate::common::{agent, eventually, get, models, records};
use crate::probes_support::{count, kubelet_target, lb_target, lines, seconds};

/// Health-check node port of the service with policy Local.
pub const HEALTH: u16 = 31_990;
/// How often the load balancer probes.
const INTERVAL: Duration = Duration::from_millis(250);

/// A lab with the Deployment `front` on node 0 behind three load balancers: `open` is probed at
/// its node port, `proxied` at kube-proxy's own port, `near` (policy Local) at its health port.
pub fn build(name: &str, model: Model) -> Result<Option<Lab>> {
    if !lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(None);
    }
    let topology = Topology::from(model);
    let [a, b, ..] = topology.dns.octets();
    let service = |name: &str, number: u8| {
        let mut service = Service::new("default", name, [a, b, 9, number].into())
            .port("http", Protocol::Tcp, 80, 8080)
            .load_balancer(topology.vip(number));
        service.selector = Some(("app".to_owned(), "front".to_owned()));
        service
    };
    let front = PodSpec::new("front", 0)
        .serving()
        .program(&["serve-grpc-health", "--listen", "0.0.0.0:50051"])
        .probe(Probe::http(ProbeKind::Readiness, 8080, "/ready"))
        .probe(Probe::grpc(ProbeKind::Liveness, 50_051, ""));
    let sick = PodSpec::new("sick", 0)
        .serving()
        .probe(Probe::http(ProbeKind::Liveness, 8080, "/status/500"))
        .probe(Probe::tcp(ProbeKind::Readiness, 81));
    let lab = Lab::builder(&format!("{name}{}", model.short()))
        .topology(model)
        .promiscuous_bridge(false)
        .lb_probe(INTERVAL, 2)
        .pod(front)
        .pod(sick)
        .service(service("open", 1))
        .service(service("proxied", 2).probe_kube_proxy())
        .service(service("near", 3).local(HEALTH))
        .start()?;
    Ok(Some(lab))
}

fn ended(target: &Value) -> u64 {
    let names = ["successes", "failures", "timeouts", "unknown"];
    names.iter().filter_map(|name| count(&target[name])).sum()
}

/// Ports, services, results and intervals of the load balancer's probes.
#[test]
fn scenario_23_load_balancers_of_every_model() -> Result<()> {
    for model in models(23) {
        let Some(lab) = build("s23", model)? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        let open = lab.service("default", "open")?;
        let node_port = open.ports[0].node_port.context("no node port")?;
        for (number, port, service, protocol, status) in [
            (1, node_port, "open", "tcp", "connected"),
            (2, 10_256, "", "http", "200"),
            (3, HEALTH, "near", "http", "200"),
        ] {
            let mut target = Value::Null;
            eventually(&format!("{model:?}: probes of port {port}"), || {
                target = lb_target(&agent, port)?;
                Ok(ended(&target) >= 5
                    && target["presence"] == "arriving"
                    && target["interval"].is_string()
                    && target["status"] == status)
            })
            .with_context(|| format!("{target}"))?;
            let text = |name: &str| target[name].as_str().unwrap_or_default();
            assert_eq!(text("service"), service, "{target}");
            assert_eq!(text("protocol"), protocol, "{target}");
            // Probes under way while the agent attached may be unknown; of those that the agent
            // says have failed, the load balancer says so too.
            let failed = ["failures", "timeouts"].map(|bad| count(&target[bad]).unwrap_or(0));
            let probes = lab.lb(lab.topology().vip(number)).probes();
            let said = probes.iter().filter(|probe| probe["node"] == 0);
            let said = said.filter(|probe| probe["healthy"] == false).count();
            assert!(failed.iter().sum::<u64>() <= said as u64, "{target} {said}");
            // Never sooner than planned; later when the machine is busy.
            let interval = seconds(&target["interval"]).context("no interval")?;
            let planned = INTERVAL.as_secs_f64();
            assert!(
                (0.8 * planned..20.0 * planned).contains(&interval),
                "{model:?}: every {interval} s: {target}"
            );
        }
    }
    Ok(())
}

/// A pod that becomes unready: endpoints, answer and the end of the probes' success, in order;
/// and probes that stop altogether.
#[test]
fn scenario_25_an_unready_pod_on_every_model() -> Result<()> {
    for model in models(25) {
        let Some(lab) = build("s25", model)? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        let near = lab.topology().vip(3);
        let timeline = || lines(&agent, &["probes", "--timeline", "near", "-o", "json"]);
        let mut target = Value::Null;
        eventually("a good answer that agrees", || {
            target = lb_target(&agent, HEALTH)?;
            Ok(target["agrees"] == true && count(&target["local_endpoints"]) == Some(1))
        })
        .with_context(|| format!("{model:?}: {target}"))?;
        lab.lb(near).wait_nodes(&[0])?;
        get(&lab.vm(), &format!("http://{near}/"))?;
        lab.set_ready("front", false)?;
        lab.lb(near).wait_nodes(&[])?;
        let mut all = Vec::new();
        let at = |all: &[Value], what: &str, part: &str| {
            all.iter().position(|one| {
                let detail = one["detail"].as_str().unwrap_or_default();
                one["what"] == what && detail.contains(part)
            })
        };
        eventually(
            &format!("{model:?}: the timeline has the end of the traffic"),
            || {
                all = timeline()?;
                Ok(at(&all, "traffic-stopped", "").is_some())
            },
        )
        .with_context(|| format!("{all:?}"))?;
        let endpoints = at(&all, "endpoints", "ready on this node 1 -> 0");
        let answer = at(&all, "answer", "-> failure (503), localEndpoints 0");
        assert!(
            endpoints.is_some() && answer.is_some(),
            "{model:?}: {all:?}"
        );
        // The newest probe may be one that is under way.
        eventually("answer and API agree on none", || {
            let target = lb_target(&agent, HEALTH)?;
            let none = count(&target["api_local_endpoints"]) == Some(0);
            anyhow::ensure!(none && target["agrees"] == true, "{target}");
            Ok(true)
        })?;
        lab.set_ready("front", true)?;
        eventually("the flip back", || {
            Ok(at(&timeline()?, "answer", "-> success (200), localEndpoints 1").is_some())
        })?;
        absence(&lab, &agent)?;
    }
    Ok(())
}

/// Scenario 26 goes with it: the load balancer stops to ask, and asks again.
fn absence(lab: &Lab, agent: &Agent) -> Result<()> {
    lab.pause_lb_probes(true)?;
    for port in [HEALTH, 10_256] {
        eventually("probes are absent", || {
            Ok(lb_target(agent, port)?["presence"] == "absent")
        })?;
    }
    let told = |what: &str| -> Result<bool> {
        let timeline = lines(agent, &["probes", "--timeline", "near", "-o", "json"])?;
        Ok(timeline.iter().any(|one| one["what"] == what))
    };
    // The timeline is written a moment after the absence can be told.
    eventually("the timeline has the end of the probes", || {
        told("probes-stopped")
    })?;
    lab.pause_lb_probes(false)?;
    eventually("probes are back", || {
        let target = lb_target(agent, HEALTH)?;
        let resumed = told("probes-resumed")?;
        let back = target["presence"] == "arriving" && resumed;
        anyhow::ensure!(back, "resumed: {resumed}, {target}");
        Ok(true)
    })
}

/// The kubelet's probes by HTTP, TCP and gRPC, good and bad.
#[test]
fn scenario_27_kubelets_of_every_model() -> Result<()> {
    for model in models(27) {
        let Some(lab) = build("s27", model)? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        for (pod, kind, protocol, result, status) in [
            ("front", "readiness", "http", "success", "200"),
            ("front", "liveness", "grpc", "success", "SERVING"),
            ("sick", "liveness", "http", "failure", "500"),
            ("sick", "readiness", "tcp", "failure", "refused"),
        ] {
            if protocol == "grpc" && !lab.takes_grpc_probes() {
                println!("skipped: gRPC probes, which this API server does not know");
                continue;
            }
            let name = lab.pod(pod)?.name();
            let mut target = Value::Null;
            eventually(&format!("{model:?}: {kind} of {pod}"), || {
                target = kubelet_target(&agent, &name, kind)?;
                // The kubelet says the same.
                let mut said = lab.kubelet_probes(0);
                let full = format!("default/{name}");
                said.retain(|one| one["pod"] == full.as_str() && one["kind"] == kind);
                let said = said.last().context("the kubelet says nothing")?;
                Ok(ended(&target) >= 3
                    && target["status"] == status
                    && target["interval"].is_string()
                    && said["healthy"] == (result == "success"))
            })
            .with_context(|| format!("{target}"))?;
            let text = |name: &str| target[name].as_str().unwrap_or_default();
            assert_eq!(
                [text("protocol"), text("result"), text("status")],
                [protocol, result, status],
                "{model:?}: {target}"
            );
            // Never sooner than planned; later when the machine is busy.
            let interval = seconds(&target["interval"]).context("no interval")?;
            assert!((0.8..10.0).contains(&interval), "{model:?}: {target}");
        }
        // Nothing that is not a probe is called one, and the other way round.
        let front = lab.pod("front")?;
        get(&lab.node(0), &format!("http://{}:8080/users", front.ip()))?;
        let to_front = |port: u16| {
            let to = std::net::SocketAddr::from((front.ip(), port));
            move |record: &crate::common::Record| {
                record.event() == "close"
                    && record
                        .tuple("/nat/original")
                        .is_some_and(|(_, dst)| dst == to)
            }
        };
        eventually("the request of a user of the node", || {
            let all = records(&agent)?;
            let mut others = all.iter().filter(|one| to_front(8080)(one));
            Ok(others.any(|one| one.ext("/class") == "node-to-pod" && one.ext("/probe").is_null()))
        })?;
        let known = lab.takes_grpc_probes();
        let mut grpc = records(&agent)?;
        grpc.retain(|one| known && to_front(50_051)(one));
        for record in grpc {
            assert_eq!(record.ext("/class"), "kubelet-probe", "{}", record.0);
        }
    }
    Ok(())
}
