//! Pods and agents that come and go.

use std::thread;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use nodescope_tests::lab::{Lab, PodSpec};

use crate::common::{agent, between, closed, eventually, get, lab, metric, one, synced};

/// How many TCX programs an interface of node 0 has: ingress, egress.
pub fn programs(lab: &Lab, interface: &str) -> Result<[usize; 2]> {
    let count = |direction| -> Result<usize> {
        Ok(lab
            .node(0)
            .enter(|| SchedClassifier::query_tcx(interface, direction))??
            .1
            .len())
    };
    Ok([count(TcAttachType::Ingress)?, count(TcAttachType::Egress)?])
}

/// A pod that is made after the agent started and sends at once: from its first SYN on.
#[test]
fn scenario_33_a_new_pod_is_covered_from_its_first_syn() -> Result<()> {
    let Some(lab) = lab("s33")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let web2 = lab.pod("web2")?;
    let to = web2.ip().to_string();
    // A client that starts the moment the bridge forwards, before the API knows the pod.
    let url = format!("http://{to}:8080/");
    let late = lab.add_pod(PodSpec::new("late", 0).entrypoint(&["http-get", &url]))?;
    lab.finished("late")?.success()?;

    let from = late.ip().to_string();
    let record = closed(&agent, "the closed connection of the new pod", |record| {
        between(record, &from, &to, 8080)
    })?;
    let flags = record.ext("/tcp/flags/forward").to_string();
    assert!(flags.contains("SYN"), "{flags}");
    // Everything that the new pod sent, from the first packet on: as many as the server's
    // interface, which had its hooks all along, saw of this connection; and all that the new
    // interface ever received, since it counts from the moment it was made. (The answer's side
    // follows within the same attachment, a moment later.)
    let [_, sent] = record
        .hop(web2.host_interface())?
        .both_ways()
        .context("no counts at the server")?;
    let client = record.hop(late.host_interface())?;
    assert_eq!(client.both_ways().map(|[ingress, _]| ingress), Some(sent));
    let interface = late.host_interface();
    eventually("the hook saw all that the interface ever received", || {
        let link = lab.link_stats(&lab.node(0), interface)?;
        let labels = [("interface", interface), ("direction", "ingress")];
        let seen = metric(&agent, "nodescope_hook_packets_total", &labels)?;
        anyhow::ensure!(
            seen == Some(link.rx_packets as f64),
            "hook {seen:?}, interface {link:?}"
        );
        Ok(true)
    })?;

    // And when it goes, nothing of it stays.
    let labels = [("interface", late.host_interface())];
    assert!(metric(&agent, "nodescope_attached_hooks", &labels)?.is_some());
    lab.remove_pod("late")?;
    eventually("the interface is forgotten", || {
        Ok(
            metric(&agent, "nodescope_attached_hooks", &labels)?.is_none()
                && metric(&agent, "nodescope_hook_packets_total", &labels)?.is_none(),
        )
    })
}

/// An agent that is killed: traffic goes on, nothing is left attached twice, counting resumes.
#[test]
fn scenario_34_a_killed_agent_disturbs_nothing_and_comes_back() -> Result<()> {
    let Some(lab) = lab("s34")? else {
        return Ok(());
    };
    let mut first = agent(&lab, 0)?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let to = api.ip().to_string();
    let veth = web.host_interface();
    assert_eq!(programs(&lab, veth)?, [1, 1]);

    thread::scope(|scope| -> Result<()> {
        let pinging = scope.spawn(|| {
            let ping = ["ping", "-q", "-c", "30", "-i", "0.05", "-W", "1", &to];
            web.run(ping)?.success()
        });
        one(&first, "the echoes are seen", |record| {
            record.flow("/l4/ICMPv4").is_object() && record.flow("/IP/destination") == to.as_str()
        })?;
        first.kill9()?;
        let said = pinging
            .join()
            .map_err(|_| anyhow::anyhow!("ping panicked"))??;
        assert!(said.contains("30 received, 0% packet loss"), "{said}");
        Ok(())
    })?;
    // The links died with their owner.
    eventually("the programs are gone", || {
        Ok(programs(&lab, veth)? == [0, 0])
    })?;

    let second = lab.start_agent(0, &["--flow-interval", "500ms"])?;
    synced(&second)?;
    for interface in [veth, "cbr0", "eth0"] {
        assert_eq!(programs(&lab, interface)?, [1, 1], "{interface}");
    }
    let seen = get(&web.netns(), &format!("http://{to}:8080/after"))?;
    let local = seen["local"].as_str().context("no local")?.to_owned();
    let record = one(&second, "a connection after the restart", |record| {
        record
            .tuple("/nat/original")
            .is_some_and(|(source, _)| source.to_string() == local)
            && record.event() == "close"
    })?;
    assert_eq!(record.path(), [veth, "cbr0", "eth0"]);
    Ok(())
}

/// Asked to end, the agent takes its programs along and writes the last interval.
#[test]
fn scenario_34_a_stopped_agent_leaves_nothing() -> Result<()> {
    let Some(lab) = lab("s34stop")? else {
        return Ok(());
    };
    // An interval that never ends by itself within the test.
    let mut agent = lab.start_agent(0, &["--flow-interval", "1h"])?;
    synced(&agent)?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let to = api.ip().to_string();
    web.run(["ping", "-q", "-c", "4", "-i", "0.2", "-W", "1", &to])?
        .success()?;
    agent.stop()?;
    let record = one(&agent, "the last interval", |record| {
        record.flow("/l4/ICMPv4").is_object()
            && crate::common::number(record.ext("/forward/packets_total")) == Some(4)
    })?;
    assert_eq!(
        crate::common::number(record.ext("/reply/packets_total")),
        Some(4)
    );
    eventually("the programs are gone", || {
        Ok(programs(&lab, web.host_interface())? == [0, 0])
    })?;
    assert!(!agent.socket().exists(), "the socket is still there");
    Ok(())
}
