//! Other people's programs on the interfaces of pods: they stay as they are and still run, and the
//! agent's counts are what the order of all of them says.

mod programs;

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use nodescope_tests::lab::{Lab, Model, Pod};

use crate::common::{Record, agent, build, eventually, losses, number, one, records};
use programs::{Verdict, attach};

/// Datagrams to each port.
const TIMES: u64 = 3;
/// What a port stands for: dropped behind the agent's program, by one that was there before it and
/// by one that came later; dropped before it; passed by one before it; redirected behind it.
const DROPPED_BY_OLDER: u16 = 7001;
const DROPPED_BY_NEWER: u16 = 7002;
const DROPPED_BEFORE: u16 = 7003;
const PASSED_BEFORE: u16 = 7004;
const REDIRECTED: u16 = 7005;
/// The same by filters of a clsact qdisc, which come behind all TCX programs.
const DROPPED_BY_FILTER: u16 = 7006;
const REDIRECTED_BY_FILTER: u16 = 7007;
/// Nobody does anything with these.
const ORDINARY: u16 = 7008;

/// Programs at the ingress of an interface of node 0, in the order in which they run.
fn order(lab: &Lab, interface: &str) -> Result<Vec<String>> {
    let query = || SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
    let (_, found) = lab.node(0).enter(query)??;
    let names = found
        .iter()
        .map(|one| one.name_as_str().unwrap_or_default());
    Ok(names.map(str::to_owned).collect())
}

/// Filters at the ingress of an interface of node 0, as tc prints them.
fn filters(lab: &Lab, interface: &str) -> Result<String> {
    let out = lab
        .node(0)
        .tool(&["tc", "filter", "show", "dev", interface, "ingress"], "")?;
    Ok(String::from_utf8(out.stdout)?)
}

fn index(lab: &Lab, interface: &str) -> Result<u32> {
    let found = lab.node(0).ip_json(&["link", "show", "dev", interface])?;
    let index = found[0]["ifindex"].as_u64().context("no ifindex")?;
    Ok(u32::try_from(index)?)
}

/// Sends the datagrams to every port, from as many source ports.
fn send(from: &Pod, to: &Pod) -> Result<()> {
    from.netns().enter(|| -> Result<()> {
        for port in DROPPED_BY_OLDER..=ORDINARY {
            let socket = UdpSocket::bind(("0.0.0.0", port - 1000))?;
            for _ in 0..TIMES {
                socket.send_to(b"foreign", (to.ip(), port))?;
            }
        }
        Ok(())
    })?
}

/// What a socket has received until now.
fn received(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 64];
    let mut count = 0;
    while socket.recv(&mut buffer).is_ok() {
        count += 1;
    }
    count
}

fn to_port(port: u16) -> impl Fn(&Record) -> bool {
    move |record| {
        let tuple = record.tuple("/nat/original");
        tuple.is_some_and(|(_, destination)| destination.port() == port)
    }
}

#[test]
fn programs_of_others_stay_and_run_before_and_behind_ours() -> Result<()> {
    let Some(lab) = build("foreign", Model::Kubenet, false)? else {
        return Ok(());
    };
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let (near, far) = (web.host_interface(), web2.host_interface());
    let node = lab.node(0);
    let to = index(&lab, far)?;
    let tcx = |name: &str, first, port, verdict| attach(&node, near, name, first, port, verdict);

    // Before the agent.
    let older = tcx("older", true, DROPPED_BY_OLDER, Verdict::Drop)?;
    let load_port = format!("4,40 0 0 36,21 0 1 {DROPPED_BY_FILTER},6 0 0 2,6 0 0 4294967295");
    let filter = format!("filter add dev {near} ingress protocol ip");
    let match_port = format!("match ip dport {REDIRECTED_BY_FILTER} 0xffff");
    node.tool(
        &["tc", "-batch", "-"],
        &format!(
            "qdisc add dev {near} clsact\n\
             {filter} prio 1 bpf da bytecode '{load_port}'\n\
             {filter} prio 2 u32 {match_port} action mirred egress redirect dev {far}\n"
        ),
    )?;
    let filtered = filters(&lab, near)?;
    ensure!(
        filtered.contains("bpf") && filtered.contains("mirred"),
        "{filtered}"
    );
    web.run(["ping", "-q", "-c", "1", &web2.ip().to_string()])?
        .success()?;

    let mut agent = agent(&lab, 0)?;
    assert_eq!(order(&lab, near)?, ["port_ingress", "older"]);
    // And behind it, and in front of it.
    let newer = tcx("newer", false, DROPPED_BY_NEWER, Verdict::Drop)?;
    let redirect = tcx("redirect", false, REDIRECTED, Verdict::Redirect(to))?;
    let before = tcx("before", true, DROPPED_BEFORE, Verdict::Drop)?;
    let pass = tcx("pass", true, PASSED_BEFORE, Verdict::Pass)?;
    let all = [
        "pass",
        "before",
        "port_ingress",
        "older",
        "newer",
        "redirect",
    ];
    assert_eq!(order(&lab, near)?, all);

    let sockets = web2.netns().enter(|| -> Result<Vec<UdpSocket>> {
        (DROPPED_BY_OLDER..=ORDINARY)
            .map(|port| {
                let socket = UdpSocket::bind(("0.0.0.0", port))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .collect()
    })??;
    let counted = lab.link_stats(&node, near)?;
    send(&web, &web2)?;

    // Whom the agent's program at the first interface saw, and that at the second.
    let (yes, no) = (Some((TIMES, TIMES * 49)), None);
    let mut arrived = Vec::new();
    for (port, at_near, at_far) in [
        (DROPPED_BY_OLDER, yes, no),
        (DROPPED_BY_NEWER, yes, no),
        (PASSED_BEFORE, no, yes),
        (REDIRECTED, yes, yes),
        (DROPPED_BY_FILTER, yes, no),
        (REDIRECTED_BY_FILTER, yes, yes),
        (ORDINARY, yes, yes),
    ] {
        let what = format!("the datagrams to port {port}");
        let record = one(&agent, &what, |record| {
            let count = |interface| {
                let hop = record.hop(interface).ok().and_then(|hop| hop.both_ways());
                hop.map(|[ingress, egress]| if interface == near { ingress } else { egress })
            };
            to_port(port)(record) && count(near) == at_near && count(far) == at_far
        })?;
        assert_eq!(
            number(record.ext("/forward/packets_total")),
            Some(TIMES),
            "{what}"
        );
        arrived.push((port, at_far.map_or(0, |_| TIMES)));
    }
    // They still run: what they dropped did not arrive, what they passed or redirected did.
    arrived.push((DROPPED_BEFORE, 0));
    for (port, wanted) in arrived {
        let socket = &sockets[usize::from(port - DROPPED_BY_OLDER)];
        assert_eq!(received(socket), wanted, "port {port}");
    }
    let since = lab.link_stats(&node, near)?.since(&counted);
    assert!(since.rx_packets >= 8 * TIMES, "{since:?}");

    // What died before the agent's program is in no record of a connection, and still told.
    let everything = records(&agent)?;
    assert!(!everything.iter().any(to_port(DROPPED_BEFORE)));
    for port in [
        DROPPED_BY_OLDER,
        DROPPED_BY_NEWER,
        DROPPED_BEFORE,
        DROPPED_BY_FILTER,
    ] {
        eventually(&format!("the loss of datagrams to port {port}"), || {
            let all = losses(&agent)?;
            let lost = all.iter().filter(|record| {
                let reason = record.ext("/drop/reason").as_str().unwrap_or_default();
                to_port(port)(record) && reason.starts_with("TC_")
            });
            let lost: u64 = lost
                .filter_map(|record| number(record.ext("/forward/packets")))
                .sum();
            ensure!(lost == TIMES, "{lost}");
            Ok(true)
        })?;
    }

    // The agent goes, and takes what is its own.
    agent.stop()?;
    eventually("the agent's program is gone", || {
        Ok(order(&lab, near)? == ["pass", "before", "older", "newer", "redirect"])
    })?;
    assert_eq!(filters(&lab, near)?, filtered);
    drop((older, newer, redirect, before, pass));
    Ok(())
}
