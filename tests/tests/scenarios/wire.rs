//! Frames as wires have them and sockets do not: tags on the way out, jumbo frames, headers that
//! lie in pages.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use nodescope_tests::lab::{Agent, Lab, Model, Pod};

use crate::common::{Record, agent, build, number, one};
use crate::frames::{between, hex, ipv4, tagged, udp};
use crate::identity::Since;

/// Each frame is sent so often.
const TIMES: u64 = 3;

/// The port of the pods' echo server.
const ECHO: u16 = 9000;

fn from_port(port: u16) -> impl Fn(&Record) -> bool {
    move |record| {
        let tuple = record.tuple("/nat/original");
        tuple.is_some_and(|(source, _)| source.port() == port)
    }
}

/// A UDP datagram from one pod to a port of the other.
fn datagram(from: &Pod, to: &Pod, ports: (u16, u16), size: usize) -> Result<Vec<u8>> {
    let payload = vec![b'n'; size];
    let ends: [Ipv4Addr; 2] = [from.ip(), to.ip()];
    let packet = ipv4(ends, 17, (1, 0), 0, &udp(ports.0, ports.1, &payload));
    between(&from.mac(), &to.mac(), &packet)
}

/// Lets the way between the pods of node 0 carry frames of 9000 bytes.
fn jumbo(lab: &Lab, pods: &[&Pod]) -> Result<()> {
    let mut lines = Vec::new();
    for pod in pods {
        lines.push(format!("link set {} mtu 9000", pod.host_interface()));
        pod.netns().ip(&["link set eth0 mtu 9000".to_owned()])?;
    }
    lines.push("link set cbr0 mtu 9000".to_owned());
    lab.node(0).ip(&lines)
}

#[test]
fn tags_on_the_way_out_jumbo_frames_and_headers_in_pages() -> Result<()> {
    // Promiscuous, the bridge would hand a copy of what it switches to the node.
    let Some(lab) = build("wire", Model::Kubenet, false)? else {
        return Ok(());
    };
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    jumbo(&lab, &[&web, &web2])?;
    let agent = agent(&lab, 0)?;
    let since = Since::still(&lab, &agent)?;
    // Both pods know each other's hardware address, and the bridge where they are.
    web.run(["ping", "-q", "-c", "1", &web2.ip().to_string()])?
        .success()?;
    let hosts = [web.host_interface(), web2.host_interface()];
    let times = TIMES.to_string();
    let send = |frame: &[u8], more: &[&str]| -> Result<()> {
        let mut command = vec!["raw-send", "eth0", "--count", &times];
        command.extend(more);
        let frame = hex(frame);
        command.push(&frame);
        web.run_lab(command)?.success()?;
        Ok(())
    };
    let big = datagram(&web, &web2, (5102, ECHO), 8900)?;
    send(&big, &[])?;
    // Nothing but the Ethernet header is where the programs look first.
    let paged = datagram(&web, &web2, (5103, ECHO), 8800)?;
    send(&paged, &["--linear", "14"])?;

    check(&agent, hosts, 5102, big.len(), TIMES)?;
    check(&agent, hosts, 5103, paged.len(), TIMES)?;
    let seen = since.agree(&lab, &agent)?;
    let [packets, ..] = seen.get(hosts[0]).context("the pod's hook")?;
    assert!(*packets >= 2 * TIMES, "{seen:?}");

    // The bridge leaves the tag on, beside the frame (vlan_tci): so it goes out of the other port.
    // In the pod nobody takes it.
    let plain = datagram(&web, &web2, (5101, 9), 100)?;
    send(&tagged(&plain, &[(0x8100, 10)]), &[])?;
    check(&agent, hosts, 5101, plain.len(), 0)
}

/// The record of the datagrams from a port, in frames of `length` bytes, and of so many echoes of
/// the same length: at both pods' interfaces, with the bridge between them.
fn check(agent: &Agent, hosts: [&str; 2], port: u16, length: usize, answers: u64) -> Result<()> {
    let what = format!("the datagrams from port {port}");
    let length = length as u64;
    let sent = (TIMES, TIMES * length);
    let answered = (answers, answers * length);
    let at = |record: &Record, host: &str| record.hop(host).ok().and_then(|hop| hop.both_ways());
    // The hooks are read one after the other: an earlier record has less of the later ones.
    let record = one(agent, &what, |record| {
        from_port(port)(record)
            && number(record.ext("/forward/packets_total")) == Some(TIMES)
            && number(record.ext("/reply/packets_total")) == Some(answers)
            && record.path() == [hosts[0], "cbr0", hosts[1]]
            && at(record, hosts[0]) == Some([sent, answered])
            && at(record, hosts[1]) == Some([answered, sent])
    })?;
    let near = record.hop(hosts[0])?;
    assert_eq!(near.both_ways(), Some([sent, answered]), "{what}");
    let far = record.hop(hosts[1])?;
    assert_eq!(far.both_ways(), Some([answered, sent]), "{what}");
    for hop in [near, far] {
        let tags = match port {
            5101 => serde_json::json!([10]),
            _ => serde_json::Value::Null,
        };
        let found = hop.0.get("vlans").cloned().unwrap_or_default();
        assert_eq!(found, tags, "{what}: {}", hop.0);
    }
    Ok(())
}
