//! Scenario 25: endpoints change, the probe's answer flips, the traffic stops: in that order.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::common::{agent, eventually, get, lab};
use crate::probes_support::{
    Answering, count, healthz, lb_get, lb_target, lines, local_service, set_endpoints,
};

const HEALTH: u16 = 32_500;

/// The only endpoint of the node goes: the API says so, kube-proxy's answer follows, the load
/// balancer sends its clients elsewhere.
#[test]
fn scenario_25_timeline_of_a_scale_down() -> Result<()> {
    let Some(lab) = lab("s25")? else {
        return Ok(());
    };
    let web = lab.pod("web")?;
    let api = lab.pod("api")?;
    local_service(
        &lab,
        "front",
        HEALTH,
        &[(web.ip(), 0, true), (api.ip(), 1, true)],
    )?;
    // The service's address, as kube-proxy would lead it to the pod on this node.
    lab.node(0).tool(
        &["iptables-restore", "--noflush"],
        &format!(
            "*nat\n-I PREROUTING -d 10.224.0.100/32 -p tcp --dport 80 -j DNAT --to {}:8080\nCOMMIT\n",
            web.ip()
        ),
    )?;
    let agent = agent(&lab, 0)?;
    let server = Answering::start(&lab.node(0), HEALTH, Some(healthz("front", 1, true)))?;
    lab.fabric().ip(&[format!(
        "route replace 10.224.0.100/32 via {}",
        lab.topology().nodes[0].ip
    )])?;
    let timeline = || lines(&agent, &["probes", "--timeline", "front", "-o", "json"]);
    let has = |what: &str, detail: &str| -> Result<bool> {
        Ok(timeline()?.iter().any(|one| {
            one["what"] == what
                && one["detail"]
                    .as_str()
                    .is_some_and(|text| text.contains(detail))
        }))
    };
    eventually("the endpoints are known", || {
        has("endpoints", "ready on this node 1, in all 2")
    })?;
    eventually("a healthy answer is read", || {
        lb_get(&lab, HEALTH, "/healthz")?;
        Ok(count(&lb_target(&agent, HEALTH)?["local_endpoints"]) == Some(1))
    })?;
    // A client from outside, by way of the load balancer's address.
    get(&lab.onprem(), "http://10.224.0.100:80/")?;
    set_endpoints(&lab, "front", &[(web.ip(), 0, false), (api.ip(), 1, true)])?;
    eventually("the change of endpoints is noted", || {
        has("endpoints", "ready on this node 1 -> 0, in all 1")
    })?;
    // Until the load balancer knows, clients still come.
    get(&lab.onprem(), "http://10.224.0.100:80/")?;
    server.set(Some(healthz("front", 0, true)));
    eventually("the flip is noted", || {
        // They keep coming: else their traffic might stop before the answer that ends it.
        get(&lab.onprem(), "http://10.224.0.100:80/")?;
        lb_get(&lab, HEALTH, "/healthz")?;
        has(
            "answer",
            "success (200), localEndpoints 1 -> failure (503), localEndpoints 0",
        )
    })?;
    get(&lab.onprem(), "http://10.224.0.100:80/")?;
    eventually("the end of the traffic is noted", || {
        has("traffic-stopped", "")
    })?;
    let all = timeline()?;
    let at = |what: &str, detail: &str| -> Result<usize> {
        all.iter()
            .position(|one| {
                let text = one["detail"].as_str().unwrap_or_default();
                one["what"] == what && text.contains(detail)
            })
            .with_context(|| format!("no {what} {detail} in {all:?}"))
    };
    let order = [
        at("endpoints", "ready on this node 1, in all 2")?,
        at("answer", "none -> success (200)")?,
        at("endpoints", "1 -> 0")?,
        at("answer", "failure (503)")?,
        at("traffic-stopped", "")?,
    ];
    assert!(order.is_sorted(), "{order:?} in {all:?}");
    let times: Vec<&str> = all.iter().filter_map(|one| one["time"].as_str()).collect();
    assert_eq!(times.len(), all.len());
    // Back again.
    set_endpoints(&lab, "front", &[(web.ip(), 0, true)])?;
    server.set(Some(healthz("front", 1, true)));
    eventually("the flip back is noted", || {
        lb_get(&lab, HEALTH, "/healthz")?;
        has("answer", "failure (503), localEndpoints 0 -> success (200)")
    })?;
    get(&lab.onprem(), "http://10.224.0.100:80/")?;
    eventually("the return of the traffic is noted", || {
        has("traffic-resumed", "")
    })?;
    let unknown: Vec<Value> = lines(&agent, &["probes", "--timeline", "no-such", "-o", "json"])?;
    assert!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}
