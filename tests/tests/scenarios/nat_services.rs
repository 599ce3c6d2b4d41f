//! Scenario 15 at services: kube-proxy's masquerade told from the masquerade configuration's.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use nodescope_tests::lab::{PodSpec, Protocol, Service};
use serde_json::Value;

use crate::common::{agent, between, closed, eventually, get, models};
use crate::nat::{configured, lab_of, source_of};

/// A pod to a load balancer's address: with policy Cluster kube-proxy translates it, with policy
/// Local it keeps its address; the backend's socket says so, and so does the record.
#[test]
fn scenario_15_kube_proxys_masquerade_is_told_from_the_configured_one() -> Result<()> {
    for model in models(15) {
        let Some(lab) = lab_of(model, "s15")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        configured(&agent, source_of(model))?;
        let topology = lab.topology();
        let [a, b, ..] = topology.dns.octets();
        lab.add_pod(PodSpec::new("shop", 0).serving())?;
        let (cluster, local) = (topology.vip(1), topology.vip(2));
        let service = |name: &str, last: u8, vip| {
            let mut service = Service::new("default", name, [a, b, 9, last].into())
                .port("http", Protocol::Tcp, 80, 8080)
                .node_port(30_000 + u16::from(last))
                .load_balancer(vip);
            service.selector = Some(("app".to_owned(), "shop".to_owned()));
            service
        };
        lab.add_service(service("open", 1, cluster))?;
        lab.add_service(service("shut", 2, local).local(32_002))?;
        eventually("the agent knows the services", || {
            let out = agent.cli(&["node", "-o", "json", "--classify", &local.to_string()])?;
            Ok(String::from_utf8(out.stdout)?.contains("load-balancer"))
        })?;
        let web = lab.pod("web")?;
        for (vip, name, translated) in [(cluster, "open", true), (local, "shut", false)] {
            let vip = vip.to_string();
            let seen = get(&web.netns(), &format!("http://{vip}/"))?;
            let end = |key: &str| -> Result<SocketAddr> {
                Ok(seen[key].as_str().context("no address")?.parse()?)
            };
            let (from, peer) = (end("local")?, end("peer")?);
            assert_eq!(
                from.ip() != peer.ip(),
                translated,
                "{model:?} {name}: the lab"
            );
            let record = closed(&agent, "the connection to the load balancer", |record| {
                between(record, &web.ip().to_string(), &vip, 80)
            })?;
            let what = format!("{model:?} {name} {}", record.0);
            assert_eq!(record.remote_sees(), Some(peer), "{what}");
            let (cause, expected) = match translated {
                true => ("kube-proxy-masquerade", "translated"),
                false => ("service", "kept"),
            };
            assert_eq!(record.ext("/nat/cause"), cause, "{what}");
            assert_eq!(record.ext("/nat/expected"), expected, "{what}");
            assert_eq!(record.ext("/nat/mismatch"), &Value::Null, "{what}");
        }
    }
    Ok(())
}
