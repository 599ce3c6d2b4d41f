//! Interfaces that are renamed, and that leave the node's namespace and come back: nothing that was
//! counted is lost, and nothing stays behind.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use nodescope_tests::lab::{Agent, Lab, Model, Pod};

use crate::common::{Record, agent, build, eventually, metric, number, one, records};
use crate::kernel::{entries, held};

/// Datagrams of a round.
const TIMES: u64 = 5;

/// Sends a round to the other pod, nobody answers.
fn send(from: &UdpSocket, to: &Pod) -> Result<()> {
    for _ in 0..TIMES {
        from.send_to(b"nodescope", (to.ip(), 7100))?;
    }
    Ok(())
}

fn from_port(port: u16) -> impl Fn(&Record) -> bool {
    move |record| {
        let tuple = record.tuple("/nat/original");
        tuple.is_some_and(|(source, _)| source.port() == port)
    }
}

/// Ids of the programs at the ingress of an interface of node 0.
fn programs(lab: &Lab, interface: &str) -> Result<Vec<u32>> {
    let query = || SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
    let (_, found) = lab.node(0).enter(query)??;
    Ok(found.iter().map(aya::programs::ProgramInfo::id).collect())
}

fn index(lab: &Lab, interface: &str) -> Result<u32> {
    let found = lab.node(0).ip_json(&["link", "show", "dev", interface])?;
    let index = found[0]["ifindex"].as_u64().context("no ifindex")?;
    Ok(u32::try_from(index)?)
}

/// Packets at the ingress and egress of an interface by the agent's metrics; `None` where there
/// is no such interface.
fn seen(agent: &Agent, interface: &str) -> Result<[Option<f64>; 2]> {
    let packets = |direction| {
        let labels = [("interface", interface), ("direction", direction)];
        metric(agent, "nodescope_hook_packets_total", &labels)
    };
    Ok([packets("ingress")?, packets("egress")?])
}

/// Datagrams that all records of connections from a port tell of together.
fn told(agent: &Agent, port: u16) -> Result<u64> {
    let all = records(agent)?;
    let own = all.iter().filter(|record| from_port(port)(record));
    Ok(own
        .filter_map(|record| number(record.ext("/forward/packets")))
        .sum())
}

#[test]
fn an_interface_may_change_its_name_and_leave_and_come_back() -> Result<()> {
    let Some(lab) = build("ifaces", Model::Kubenet, false)? else {
        return Ok(());
    };
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let (near, far) = (web.host_interface(), web2.host_interface());
    let agent = agent(&lab, 0)?;
    let node = lab.node(0);
    let listener = web2.netns().enter(|| UdpSocket::bind("0.0.0.0:7100"))??;
    let bind = |port: u16| web.netns().enter(|| UdpSocket::bind(("0.0.0.0", port)));
    let socket = bind(6100)??;

    // One conversation, before and after the change of name.
    send(&socket, &web2)?;
    one(&agent, "the first round", |record| {
        from_port(6100)(record) && record.path() == [near, "cbr0", far]
    })?;
    let (before, hooks) = (programs(&lab, near)?, held(&agent)?);
    // Up, as kernels from 6.2 on allow it; else it has to be down for a moment.
    if node.ip(&[format!("link set {near} name pod0")]).is_err() {
        node.ip(&[
            format!("link set {near} down"),
            format!("link set {near} name pod0"),
            "link set pod0 up".to_owned(),
        ])?;
    }
    eventually("the new name is known", || {
        Ok(seen(&agent, "pod0")?[0].is_some() && seen(&agent, near)? == [None, None])
    })?;
    send(&socket, &web2)?;
    let record = one(&agent, "both rounds", |record| {
        from_port(6100)(record) && number(record.ext("/forward/packets_total")) == Some(2 * TIMES)
    })?;
    assert_eq!(record.path(), ["pod0", "cbr0", far]);
    for interface in ["pod0", far] {
        let hop = record.hop(interface)?;
        let [ingress, egress] = hop.both_ways().context("no counts")?;
        assert_eq!(ingress.0 + egress.0, 2 * TIMES, "{interface}");
    }
    assert_eq!(told(&agent, 6100)?, 2 * TIMES);
    // The same programs by the same links.
    assert_eq!(programs(&lab, "pod0")?, before);
    assert_eq!(held(&agent)?, hooks);

    // Out of the namespace: its connections are told to their end, and it is forgotten.
    let away = index(&lab, far)?;
    ensure!(entries(&agent, &[away])?["PORTS"] == 1);
    let vm = lab.vm();
    node.ip(&[format!("link set {far} netns {}", vm.name())])?;
    eventually("the interface is forgotten", || {
        ensure!(seen(&agent, far)? == [None, None], "it is in the metrics");
        let left = entries(&agent, &[away])?;
        ensure!(left.values().all(|count| *count == 0), "{left:?}");
        let held = held(&agent)?;
        ensure!(
            held["anon_inode:bpf_link"] + 2 == hooks["anon_inode:bpf_link"],
            "{held:?}"
        );
        Ok(true)
    })?;
    one(&agent, "the end of the conversation", |record| {
        from_port(6100)(record) && record.event() == "close"
    })?;
    assert_eq!(told(&agent, 6100)?, 2 * TIMES);

    // And back: hooks again, a port of the bridge again, counting from there on.
    vm.ip(&[format!("link set {far} netns {}", node.name())])?;
    node.ip(&[
        format!("link set {far} master cbr0"),
        format!("link set {far} up"),
    ])?;
    covered(&lab, &agent, &web2, &hooks)?;
    let socket = bind(6101)??;
    send(&socket, &web2)?;
    check(&agent, 6101, far)?;

    // Away and back before anybody looks: the kernel took the hooks, under the same index.
    let same = index(&lab, far)?;
    vm.tool(
        &["ip", "-n", node.name(), "-batch", "-"],
        &format!("link set {far} netns {}\n", vm.name()),
    )?;
    vm.ip(&[format!("link set {far} netns {}", node.name())])?;
    node.ip(&[
        format!("link set {far} master cbr0"),
        format!("link set {far} up"),
    ])?;
    assert_eq!(index(&lab, far)?, same);
    covered(&lab, &agent, &web2, &hooks)?;
    let socket = bind(6102)??;
    send(&socket, &web2)?;
    check(&agent, 6102, far)?;
    drop(listener);
    Ok(())
}

/// Waits until the pod's interface has its hooks and carries packets.
fn covered(
    lab: &Lab,
    agent: &Agent,
    pod: &Pod,
    hooks: &std::collections::BTreeMap<String, usize>,
) -> Result<()> {
    let interface = pod.host_interface();
    eventually("the interface has its hooks again", || {
        let held = held(agent)?;
        ensure!(held == *hooks, "{held:?} instead of {hooks:?}");
        let ports = entries(agent, &[index(lab, interface)?])?["PORTS"];
        ensure!(ports == 1, "it is no port of the bridge");
        Ok(programs(lab, interface)?.len() == 1 && seen(agent, interface)?[1].is_some())
    })?;
    let to = pod.ip().to_string();
    eventually("the pod is reached", || {
        let from = lab.pod("web")?;
        Ok(from
            .run(["ping", "-q", "-c", "1", "-W", "1", &to])?
            .status
            .success())
    })
}

/// A round that began after the interface came back is whole at it.
fn check(agent: &Agent, port: u16, far: &str) -> Result<()> {
    one(agent, "the round", |record| {
        let counts = record.hop(far).ok().and_then(|hop| hop.both_ways());
        from_port(port)(record)
            && record.path() == ["pod0", "cbr0", far]
            && counts.is_some_and(|[_, egress]| egress.0 == TIMES)
    })?;
    eventually(
        "the whole round is told",
        || Ok(told(agent, port)? == TIMES),
    )
}
