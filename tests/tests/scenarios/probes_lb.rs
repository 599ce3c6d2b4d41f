//! Scenarios 23, 24 and 26: a load balancer's probes of a node.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::common::{Record, agent, counts, eventually, lab, metric, records};
use crate::probes_support::{
    Answering, PROBER, count, healthz, http, lb_get, lb_target, lb_tcp, local_service, seconds,
};

/// Health-check node port of the service that the tests make.
const HEALTH: u16 = 32_500;
/// kube-proxy's own health port, which the lab's kube-proxy answers.
const KUBE_PROXY: u16 = 10_256;

fn is_probe_of(record: &Record, port: u16) -> bool {
    record.ext("/class") == "lb-probe"
        && record.ext("/probe/port").as_f64() == Some(f64::from(port))
        && record.event() == "close"
}

/// Which service, how often, what result, how long it took, when last: by HTTP and by TCP, of a
/// health-check node port, kube-proxy's own, and a closed one.
#[test]
fn scenario_23_load_balancer_probes_by_port() -> Result<()> {
    const CLOSED: u16 = 32_600;
    const ROUNDS: usize = 5;
    let Some(lab) = lab("s23")? else {
        return Ok(());
    };
    local_service(&lab, "front", HEALTH, &[(lab.pod("web")?.ip(), 0, true)])?;
    let agent = agent(&lab, 0)?;
    let node = lab.node(0);
    let _health = Answering::start(&node, HEALTH, Some(healthz("front", 1, true)))?;
    let _plain = Answering::start(&node, 32_700, None)?;
    eventually("the agent knows the service", || {
        Ok(lb_target(&agent, HEALTH).is_ok())
    })?;
    let mut starts = Vec::new();
    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let probed = lb_get(&lab, HEALTH, "/healthz")?;
        assert!(
            probed
                .answer
                .as_ref()
                .is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
        );
        starts.push((probed.at, probed.took));
        longest = longest.max(probed.took);
        lb_get(&lab, KUBE_PROXY, "/healthz")?;
        assert!(lb_tcp(&lab, 32_700)?.answer.is_ok());
        assert_eq!(
            lb_tcp(&lab, CLOSED)?.answer,
            Err(std::io::ErrorKind::ConnectionRefused)
        );
        // The interval that the client keeps, as a load balancer does.
        std::thread::sleep(Duration::from_millis(200));
    }
    for (port, service, protocol, result, status) in [
        (HEALTH, "front", "http", "success", "200"),
        (KUBE_PROXY, "", "http", "success", "200"),
        (32_700, "", "tcp", "success", "connected"),
        (CLOSED, "", "tcp", "failure", "refused"),
    ] {
        let mut target = Value::Null;
        eventually(&format!("all probes of port {port} have ended"), || {
            target = lb_target(&agent, port)?;
            let ended = ["successes", "failures", "timeouts", "unknown"];
            let ended: u64 = ended.iter().filter_map(|name| count(&target[name])).sum();
            Ok(ended == ROUNDS as u64)
        })?;
        let told = ["service", "protocol", "result", "status"]
            .map(|name| target[name].as_str().unwrap_or_default());
        assert_eq!(told, [service, protocol, result, status], "{target}");
        assert_eq!(target["presence"], "arriving", "{target}");
        assert!(target["last_seen"].is_string(), "{target}");
    }
    // The prober's own clock is the witness.
    // A probe's first packet leaves between its beginning and its end.
    let least = starts
        .windows(2)
        .map(|pair| pair[1].0.saturating_duration_since(pair[0].0 + pair[0].1));
    let most = starts
        .windows(2)
        .map(|pair| pair[1].0 + pair[1].1 - pair[0].0);
    let (least, most) = (least.min(), most.max());
    let target = lb_target(&agent, HEALTH)?;
    let interval = seconds(&target["interval"]).context("no interval")?;
    let interval = Some(Duration::from_secs_f64(interval));
    assert!(
        least <= interval && interval <= most,
        "{interval:?} of {starts:?}"
    );
    let latency = seconds(&target["latency"]).context("no latency")?;
    assert!(
        latency > 0.0 && latency <= longest.as_secs_f64(),
        "{latency} {longest:?}"
    );
    let mut found = Vec::new();
    eventually("all of them are closed", || {
        found = records(&agent)?;
        found.retain(|record| is_probe_of(record, HEALTH));
        Ok(found.len() >= ROUNDS)
    })?;
    assert_eq!(found.len(), ROUNDS);
    for record in found {
        assert_eq!(record.flow("/IP/source"), &json!(PROBER.to_string()));
        assert_eq!(record.ext("/probe/kind"), "lb");
        assert_eq!(record.ext("/probe/service"), "default/front");
        assert_eq!(record.ext("/probe/path"), "/healthz");
        assert_eq!(record.ext("/probe/result"), "success");
        assert_eq!(record.ext("/probe/status").as_f64(), Some(200.0));
        assert_eq!(record.ext("/probe/local_endpoints").as_f64(), Some(1.0));
        assert!(record.ext("/probe/latency_seconds").as_f64().is_some());
    }
    let of = [("kind", "lb"), ("target", "front"), ("result", "success")];
    counts(&agent, "nodescope_probe_results_total", &of, ROUNDS as f64)
}

/// The answer's fields in both forms, held against the API; what is no health answer says
/// nothing.
#[test]
fn scenario_24_local_endpoints_against_the_api() -> Result<()> {
    let Some(lab) = lab("s24")? else {
        return Ok(());
    };
    local_service(&lab, "front", HEALTH, &[(lab.pod("web")?.ip(), 0, true)])?;
    let agent = agent(&lab, 0)?;
    let server = Answering::start(&lab.node(0), HEALTH, Some(healthz("front", 1, false)))?;
    eventually("the agent knows the service", || {
        Ok(lb_target(&agent, HEALTH).is_ok())
    })?;
    let ask = |what: &str, holds: &dyn Fn(&Value) -> bool| {
        let mut last = Value::Null;
        eventually(what, || {
            lb_get(&lab, HEALTH, "/healthz")?;
            last = lb_target(&agent, HEALTH)?;
            Ok(holds(&last))
        })
        .with_context(|| format!("{last}"))
    };
    ask("the old form agrees", &|target| {
        target["status"] == "200"
            && count(&target["local_endpoints"]) == Some(1)
            && count(&target["api_local_endpoints"]) == Some(1)
            && target["agrees"] == true
            && target.get("proxy_healthy").is_none()
            && count(&target["weight"]) == Some(1)
    })?;
    server.set(Some(healthz("front", 0, true)));
    ask("503 with none contradicts the API", &|target| {
        target["status"] == "503"
            && target["result"] == "failure"
            && count(&target["local_endpoints"]) == Some(0)
            && target["agrees"] == false
            && target["proxy_healthy"] == true
    })?;
    let gauge = |source| {
        let labels = [("service", "front"), ("source", source)];
        metric(&agent, "nodescope_healthcheck_local_endpoints", &labels)
    };
    eventually("the metrics say so too", || {
        Ok(gauge("probe")? == Some(0.0) && gauge("api")? == Some(1.0))
    })?;
    // A human's table says it as well.
    let table = agent.cli(&["probes"])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("DISAGREES"), "{table}");
    for (what, body) in [
        ("no JSON", "fine, thank you".to_owned()),
        ("a wrong number", "{\"localEndpoints\": -3}".to_owned()),
        (
            "10 MB",
            format!(
                "{{\"localEndpoints\": 1, \"x\": \"{}\"}}",
                "x".repeat(10_000_000)
            ),
        ),
    ] {
        server.set(Some(http("200 OK", &body)));
        ask(&format!("a body that is {what} says nothing"), &|target| {
            target["status"] == "200"
                && target.get("local_endpoints").is_none()
                && target.get("agrees").is_none()
        })?;
    }
    Ok(())
}

/// Probes that stop are absent, whatever the last one said; those that never came are not
/// called healthy either.
#[test]
fn scenario_26_probes_that_stop_are_absent() -> Result<()> {
    let Some(lab) = lab("s26")? else {
        return Ok(());
    };
    local_service(&lab, "front", HEALTH, &[(lab.pod("web")?.ip(), 0, true)])?;
    let agent = agent(&lab, 0)?;
    let _server = Answering::start(&lab.node(0), HEALTH, Some(healthz("front", 1, true)))?;
    eventually("the agent expects probes", || {
        let target = lb_target(&agent, HEALTH)?;
        Ok(target["presence"] == "never-seen" && target.get("result").is_none())
    })?;
    let mut last = Value::Null;
    eventually("probes arrive", || {
        lb_get(&lab, HEALTH, "/healthz")?;
        last = lb_target(&agent, HEALTH)?;
        Ok(last["presence"] == "arriving"
            && last.get("interval").is_some()
            && last["result"] == "success")
    })?;
    // No more from here on.
    eventually("they are absent", || {
        last = lb_target(&agent, HEALTH)?;
        Ok(last["presence"] == "absent")
    })?;
    assert!(
        last.get("agrees").is_none(),
        "an old answer is no evidence: {last}"
    );
    let table = agent.cli(&["probes"])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("ABSENT"), "{table}");
    Ok(())
}
