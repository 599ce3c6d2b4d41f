//! Scenario 28: packets that die on the node, with the kernel's reason, held against iptables'
//! own counters and what the sender's socket was told.

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Model, Netns};

use crate::common::{Record, agent, eventually, losses, metric, number, of_model};

/// Datagrams that die, an odd number that nothing else sends.
const DATAGRAMS: u64 = 7;

/// Sends datagrams from one port to an address; nobody has to answer.
fn datagrams(from: &Netns, to: &str, count: u64) -> Result<()> {
    let count = count.to_string();
    from.run_lab(["udp-send", "--no-answer", "--count", &count, to])?
        .success()?;
    Ok(())
}

/// Packets in records of drops for which `choose` holds.
fn dropped(agent: &Agent, choose: impl Fn(&Record) -> bool) -> Result<u64> {
    let all = losses(agent)?;
    let lost = all.iter().filter(|record| choose(record));
    Ok(lost
        .filter_map(|record| number(record.ext("/forward/packets")))
        .sum())
}

/// The newest record of a drop for which `choose` holds.
fn newest(agent: &Agent, choose: impl Fn(&Record) -> bool) -> Result<Record> {
    let found = losses(agent)?.into_iter().rev().find(choose);
    found.context("no such drop")
}

fn reason(record: &Record) -> &str {
    record.ext("/drop/reason").as_str().unwrap_or_default()
}

/// Reasons that name no loss. Others may come up on a machine under load: a packet sent again
/// because its acknowledgement was late is dropped at the receiver, and rightly told.
fn is_noise(record: &Record) -> bool {
    // The kernel has an echo reply left over when it has given ping's raw socket a copy.
    if reason(record) == "NO_SOCKET" && record.flow("/l4/ICMPv4").is_object() {
        return true;
    }
    [
        "QUEUE_PURGE",
        "NOT_SPECIFIED",
        "CONSUMED",
        "NOT_DROPPED_YET",
    ]
    .contains(&reason(record))
}

/// Packets that a rule dropped, as iptables counts them.
fn counted_by_rule(node: &Netns, comment: &str) -> Result<u64> {
    let output = node.tool(&["iptables-save", "-c", "-t", "filter"], "")?;
    let text = String::from_utf8(output.stdout)?;
    let line = text
        .lines()
        .find(|line| line.contains(comment))
        .with_context(|| format!("no rule {comment} in {text}"))?;
    let packets = line.trim_start_matches('[').split(':').next();
    Ok(packets.context("no counter")?.parse()?)
}

/// A rule in FORWARD drops what a pod sends: reason, both ends, hook and number.
#[test]
fn scenario_28_a_packet_dropped_by_netfilter_is_told_with_its_reason() -> Result<()> {
    for model in Model::ALL {
        let Some(lab) = of_model("s28", model)? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        let (web, vm) = (lab.pod("web")?, lab.topology().vm.ip().to_string());
        let rule = "-I FORWARD -p udp --dport 7777 -m comment --comment lost -j DROP";
        let argv: Vec<_> = ["iptables"].into_iter().chain(rule.split(' ')).collect();
        ensure!(lab.node(0).tool(&argv, "")?.status.success(), "no rule");

        datagrams(&web.netns(), &format!("{vm}:7777"), DATAGRAMS)?;
        assert_eq!(counted_by_rule(&lab.node(0), "lost")?, DATAGRAMS);
        let here = |record: &Record| reason(record) == "NETFILTER_DROP";
        eventually("all are told", || Ok(dropped(&agent, here)? == DATAGRAMS))?;

        let record = newest(&agent, here)?;
        assert_eq!(record.flow("/verdict"), "DROPPED");
        assert_eq!(record.flow("/drop_reason_desc"), "POLICY_DENIED");
        assert_eq!(record.flow("/event_type/type").as_f64(), Some(1.0));
        assert_eq!(record.flow("/source/pod_name"), web.name().as_str());
        assert_eq!(record.flow("/IP/destination"), vm.as_str());
        assert_eq!(record.ext("/class"), "pod-to-world");
        // The routing code had the packet from the bridge, or from the pod's own interface.
        let interface = match model {
            Model::Kubenet => "cbr0",
            Model::AzureCni | Model::Overlay => web.host_interface(),
        };
        assert_eq!(
            record.ext("/drop/hook"),
            format!("{interface} ingress").as_str()
        );

        let labels = [("reason", "NETFILTER_DROP"), ("direction", "ingress")];
        eventually("the metric has them", || {
            let total = metric(&agent, "nodescope_drops_total", &labels)?;
            ensure!(total == Some(DATAGRAMS as f64), "{total:?}");
            Ok(true)
        })?;
        let output = agent.cli(&["drops", "--pod", "web", "-o", "json"])?;
        let text = String::from_utf8(output.stdout)?;
        let line: serde_json::Value = serde_json::from_str(text.trim())?;
        assert_eq!(number_of(&line["packets"]), Some(DATAGRAMS), "{line}");
        assert_eq!(line["source_pod"], format!("default/{}", web.name()));
        assert_eq!(dropped(&agent, is_noise)?, 0, "{:?}", reasons(&agent)?);
    }
    Ok(())
}

/// The JSON form of a 64-bit number is a string.
fn number_of(value: &serde_json::Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// What was lost, for a message.
fn reasons(agent: &Agent) -> Result<Vec<String>> {
    let summary = |record: &Record| record.flow("/Summary").to_string();
    Ok(losses(agent)?.iter().map(summary).collect())
}

/// Nobody listens in the pod: the packets die there, behind the pod's interface; those of a pod
/// on the other node are not this node's.
#[test]
fn scenario_28_a_packet_that_dies_in_a_pod_is_its_nodes() -> Result<()> {
    let Some(lab) = of_model("s28p", Model::Kubenet)? else {
        return Ok(());
    };
    let agents = [agent(&lab, 0)?, agent(&lab, 1)?];
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    datagrams(&web.netns(), &format!("{}:7777", api.ip()), DATAGRAMS)?;
    let deaf = |record: &Record| reason(record) == "NO_SOCKET";
    eventually("they died on the other node", || {
        Ok(dropped(&agents[1], deaf)? == DATAGRAMS)
    })?;
    let record = newest(&agents[1], deaf)?;
    assert_eq!(record.ext("/drop/hook"), "eth0 ingress in the pod");
    assert_eq!(record.flow("/destination/pod_name"), api.name().as_str());
    assert_eq!(record.flow("/interface/name"), api.host_interface());
    assert_eq!(dropped(&agents[0], deaf)?, 0, "{:?}", reasons(&agents[0])?);
    Ok(())
}

/// What the lab plays on an ordinary day dies nowhere: what sockets throw away when they are
/// closed, and packets that the kernel used up, are no losses.
#[test]
fn scenario_28_ordinary_traffic_is_no_loss() -> Result<()> {
    let Some(lab) = of_model("s28q", Model::Overlay)? else {
        return Ok(());
    };
    let agents = [agent(&lab, 0)?, agent(&lab, 1)?];
    lab.play()?;
    for agent in &agents {
        eventually("freed packets are told apart", || {
            let freed = metric(agent, "nodescope_freed_packets_total", &[])?;
            Ok(freed.is_some_and(|freed| freed > 0.0))
        })?;
        assert_eq!(dropped(agent, is_noise)?, 0, "{:?}", reasons(agent)?);
    }
    Ok(())
}
