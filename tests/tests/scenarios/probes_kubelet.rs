//! Scenario 27: the kubelet's probes of its pods, kept apart from everything else that the node
//! sends them.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use nodescope_tests::lab::{Lab, Netns, Pod};
use serde_json::{Value, json};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::common::{Record, agent, eventually, lab, metric, records};
use crate::probes_support::{
    Answering, count, http, kubelet_request, kubelet_target, probe, seconds,
};

const LIVE: u16 = 8081;
const READY: u16 = 8082;
const GRPC: u16 = 8083;

/// Gives the pod's container probes in the API: HTTP by a port's name, TCP, gRPC.
fn give_probes(lab: &Lab, pod: &Pod) -> Result<()> {
    let api = lab.control_plane()?;
    let mut object = api
        .written("Pod", "default", &pod.name())
        .context("the pod is not in the API")?;
    let container = &mut object["spec"]["containers"][0];
    container["ports"] = json!([{"name": "health", "containerPort": LIVE, "protocol": "TCP"}]);
    container["livenessProbe"] = json!({
        "httpGet": {"path": "/live", "port": "health"}, "periodSeconds": 1, "timeoutSeconds": 1,
    });
    container["readinessProbe"] = json!({
        "tcpSocket": {"port": READY}, "periodSeconds": 1,
    });
    container["startupProbe"] = json!({
        "grpc": {"port": GRPC}, "periodSeconds": 1,
    });
    object["status"]["containerStatuses"][0]["started"] = json!(true);
    api.apply(object)
}

/// Says whether the container has started.
fn set_started(lab: &Lab, pod: &Pod, started: bool) -> Result<()> {
    let api = lab.control_plane()?;
    let mut object = api
        .written("Pod", "default", &pod.name())
        .context("the pod is not in the API")?;
    object["status"]["containerStatuses"][0]["started"] = json!(started);
    api.apply(object)
}

/// A real gRPC server with the health service; ends when the sender is dropped.
fn serve_grpc(netns: &Netns, status: ServingStatus) -> Result<tokio::sync::oneshot::Sender<()>> {
    let listener =
        netns.enter(|| std::net::TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], GRPC))))??;
    listener.set_nonblocking(true)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, is_ready) = mpsc::channel::<Result<()>>();
    std::thread::spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error.into()))),
        };
        runtime.block_on(async move {
            let (reporter, health) = tonic_health::server::health_reporter();
            reporter.set_service_status("", status).await;
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return drop(ready.send(Err(error.into()))),
            };
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let _ = ready.send(Ok(()));
            let over = async {
                let _ = stopped.await;
            };
            let server = tonic::transport::Server::builder().add_service(health);
            let _ = server.serve_with_incoming_shutdown(incoming, over).await;
        });
    });
    is_ready.recv_timeout(Duration::from_secs(10))??;
    Ok(stop)
}

/// A health check as the kubelet makes it.
fn check_grpc(netns: &Netns, to: SocketAddr) -> Result<i32> {
    netns.enter(|| -> Result<i32> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{to}"))?;
            let mut client = HealthClient::new(endpoint.connect().await?);
            let request = HealthCheckRequest {
                service: String::new(),
            };
            Ok(client.check(request).await?.into_inner().status)
        })
    })?
}

fn to(record: &Record, port: u16) -> bool {
    record.event() == "close"
        && record
            .tuple("/nat/original")
            .is_some_and(|(_, destination)| destination.port() == port)
}

/// HTTP by a port's name, TCP and gRPC, told by the spec; results, latency, and the node's other
/// traffic to the same port is none of them.
#[test]
fn scenario_27_kubelet_probes_match_the_spec() -> Result<()> {
    const ROUNDS: usize = 3;
    let Some(lab) = lab("s27")? else {
        return Ok(());
    };
    let web = lab.pod("web")?;
    let name = web.name();
    give_probes(&lab, &web)?;
    let agent = agent(&lab, 0)?;
    let (node, pod) = (lab.node(0), web.netns());
    let live = Answering::start(&pod, LIVE, Some(http("200 OK", "ok")))?;
    let _ready = Answering::start(&pod, READY, None)?;
    let _grpc = serve_grpc(&pod, ServingStatus::NotServing)?;
    eventually("the agent expects the probes", || {
        let grpc = lab.takes_grpc_probes().then_some("startup");
        Ok(["liveness", "readiness"]
            .iter()
            .chain(&grpc)
            .all(|kind| kubelet_target(&agent, &name, kind).is_ok()))
    })?;
    let at = |port| SocketAddr::from((web.ip(), port));
    let asked = kubelet_request("/live", "kube-probe/1.32");
    for _ in 0..ROUNDS {
        assert!(probe(&node, None, at(LIVE), &asked)?.answer.is_ok());
        assert!(probe(&node, None, at(READY), "")?.answer.is_ok());
    }
    // Not the kubelet: another agent, another path, another pod.
    let curl = kubelet_request("/live", "curl/8.5.0");
    let elsewhere = kubelet_request("/other", "kube-probe/1.32");
    for request in [&curl, &elsewhere] {
        assert!(probe(&node, None, at(LIVE), request)?.answer.is_ok());
    }
    let neighbour = lab.pod("web2")?;
    assert!(
        probe(&neighbour.netns(), None, at(LIVE), &asked)?
            .answer
            .is_ok()
    );
    let ended = |kind: &str| -> Result<(Value, u64)> {
        let target = kubelet_target(&agent, &name, kind)?;
        let names = ["successes", "failures", "timeouts", "unknown"];
        let sum = names.iter().filter_map(|name| count(&target[name])).sum();
        Ok((target, sum))
    };
    for (kind, status, protocol, port) in [
        ("liveness", "200", "http", LIVE),
        ("readiness", "connected", "tcp", READY),
    ] {
        let mut target = Value::Null;
        eventually(&format!("the {kind} probes have ended"), || {
            let (found, sum) = ended(kind)?;
            target = found;
            Ok(sum == ROUNDS as u64)
        })
        .with_context(|| format!("{target}"))?;
        assert_eq!(count(&target["successes"]), Some(ROUNDS as u64), "{target}");
        assert_eq!(target["status"], status, "{target}");
        assert_eq!(target["protocol"], protocol, "{target}");
        assert_eq!(target["port"], port, "{target}");
        assert_eq!(target["namespace"], "default", "{target}");
        assert_eq!(seconds(&target["period"]), Some(1.0), "{target}");
        assert!(
            seconds(&target["latency"]).is_some_and(|took| took > 0.0),
            "{target}"
        );
    }
    // Every connection to the port has its class.
    let mut seen = Vec::new();
    eventually("all connections are closed", || {
        seen = records(&agent)?
            .into_iter()
            .filter(|record| to(record, LIVE))
            .collect();
        Ok(seen.len() == ROUNDS + 3)
    })?;
    let of = |class: &str| seen.iter().filter(|one| one.ext("/class") == class).count();
    assert_eq!(
        (of("kubelet-probe"), of("node-to-pod"), of("pod-to-pod")),
        (ROUNDS, 2, 1)
    );
    for record in seen
        .iter()
        .filter(|one| one.ext("/class") == "kubelet-probe")
    {
        assert_eq!(record.ext("/probe/kind"), "liveness");
        assert_eq!(record.ext("/probe/path"), "/live");
        assert_eq!(record.ext("/probe/container"), "web");
        assert_eq!(record.ext("/probe/result"), "success");
        assert_eq!(record.flow("/destination/pod_name"), &json!(name));
    }
    assert!(
        seen.iter()
            .filter(|one| one.ext("/class") != "kubelet-probe")
            .all(|one| one.ext("/probe").is_null())
    );
    // Answers that say no, and none at all.
    live.set(Some(http("500 Internal Server Error", "broken")));
    probe(&node, None, at(LIVE), &asked)?;
    eventually("the failure is read", || {
        let (target, _) = ended("liveness")?;
        Ok(target["status"] == "500" && target["result"] == "failure")
    })?;
    live.set(None);
    assert!(probe(&node, None, at(LIVE), &asked)?.answer.is_err());
    eventually("the timeout is noted", || {
        let (target, _) = ended("liveness")?;
        Ok(target["status"] == "no-answer" && target["result"] == "timeout")
    })?;
    let labels = [
        ("kind", "liveness"),
        ("target", name.as_str()),
        ("result", "timeout"),
    ];
    eventually("and counted", || {
        Ok(metric(&agent, "nodescope_probe_results_total", &labels)? == Some(1.0))
    })?;
    if !lab.takes_grpc_probes() {
        println!("skipped: the gRPC probe, which this API server does not know");
        return Ok(());
    }
    // The startup probe is the only one until the container has started.
    set_started(&lab, &web, false)?;
    eventually("the gRPC answer is read", || {
        assert_eq!(check_grpc(&node, at(GRPC))?, 2);
        let (target, _) = ended("startup")?;
        Ok(target["status"] == "NOT_SERVING" && target["result"] == "failure")
    })?;
    Ok(())
}
