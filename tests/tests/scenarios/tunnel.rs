//! Pods that reach the other node through a VXLAN device of their own node, as flannel has it: the
//! packet in the tunnel and the packet that carries it are each counted once, where they are.

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, Model};

use crate::common::{Record, agent, build, eventually, metric, number, one};

/// Datagrams, each with its echo.
const TIMES: u64 = 5;
/// What is in them.
const PAYLOAD: u64 = 100;
/// Ethernet, IPv4 and UDP headers; and those of VXLAN's outer packet with its own 8 bytes.
const HEADERS: u64 = 42;
const OUTER: u64 = 50;

/// Makes `flannel.1` on both nodes, with all that flanneld writes for it.
fn flannel(lab: &Lab) -> Result<()> {
    let nodes = &lab.topology().nodes;
    for (here, there) in [(0, 1), (1, 0)] {
        let (own, other) = (nodes[here].ip, nodes[there].ip);
        let range = nodes[there].pod_cidr.context("no pod range")?;
        let mac = |index: usize| format!("02:00:00:00:08:0{index}");
        let node = lab.node(here);
        node.ip(&[
            format!(
                "link add flannel.1 type vxlan id 1 local {own} dev eth0 dstport 8472 nolearning"
            ),
            format!("link set flannel.1 address {} up", mac(here)),
            format!(
                "neigh add {} lladdr {} dev flannel.1 nud permanent",
                range.network(),
                mac(there)
            ),
            format!(
                "route replace {range} via {} dev flannel.1 onlink",
                range.network()
            ),
        ])?;
        let entry = format!("bridge fdb append {} dev flannel.1 dst {other}", mac(there));
        let argv: Vec<&str> = entry.split(' ').collect();
        node.tool(&argv, "")?;
    }
    Ok(())
}

/// Packets and bytes at `flannel.1` of node 0, ingress and egress: the hook's, and the
/// interface's as the hook counts. The device counts what it carries from the IP header on
/// (net/ipv4/ip_tunnel_core.c, `iptunnel_xmit`).
fn counted(lab: &Lab, agent: &Agent) -> Result<([u64; 4], [u64; 4])> {
    const ETHERNET: u64 = 14;
    let value = |name, direction| -> Result<u64> {
        let labels = [("interface", "flannel.1"), ("direction", direction)];
        Ok(metric(agent, name, &labels)?.unwrap_or(0.0) as u64)
    };
    let (packets, bytes) = ("nodescope_hook_packets_total", "nodescope_hook_bytes_total");
    let hook = [
        value(packets, "ingress")?,
        value(bytes, "ingress")?,
        value(packets, "egress")?,
        value(bytes, "egress")?,
    ];
    let link = lab.link_stats(&lab.node(0), "flannel.1")?;
    let link = [
        link.rx_packets,
        link.rx_bytes + ETHERNET * link.rx_packets,
        link.tx_packets,
        link.tx_bytes + ETHERNET * link.tx_packets,
    ];
    Ok((hook, link))
}

#[test]
fn what_a_vxlan_device_carries_is_a_hop_of_its_own() -> Result<()> {
    let Some(lab) = build("vxlan", Model::Kubenet, false)? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    flannel(&lab)?;
    eventually("the device has hooks", || {
        let labels = [("interface", "flannel.1"), ("role", "tunnel")];
        Ok(metric(&agent, "nodescope_attached_hooks", &labels)? == Some(2.0))
    })?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let (times, size) = (TIMES.to_string(), PAYLOAD.to_string());
    let to = format!("{}:9000", api.ip());
    let port = ["--source-port", "6200", "--count", &times, "--size", &size];
    web.run_lab([&["udp-send", to.as_str()][..], &port].concat())?
        .success()?;

    let both = (TIMES, TIMES * (HEADERS + PAYLOAD));
    let inner = |tuple: Option<(std::net::SocketAddr, std::net::SocketAddr)>| {
        let ends = tuple.map(|(source, destination)| (source.to_string(), destination.to_string()));
        ends == Some((format!("{}:6200", web.ip()), to.clone()))
    };
    let record = one(&agent, "the pods' datagrams", |record| {
        inner(record.tuple("/nat/original"))
            && number(record.ext("/reply/packets_total")) == Some(TIMES)
            && record.path() == [web.host_interface(), "cbr0", "flannel.1"]
            && record.path().iter().all(|interface| {
                let hop = record.hop(interface).ok();
                hop.and_then(|hop| hop.both_ways()) == Some([both, both])
            })
    })?;
    assert_eq!(record.ext("/scope"), "cross-node");
    assert_eq!(record.ext("/nat/kind"), "none");
    let hop = record.hop("flannel.1")?;
    assert_eq!(hop.0["role"], "tunnel");

    // Outside they are the nodes' own, at the uplink alone.
    let nodes = &lab.topology().nodes;
    let outer = (TIMES, TIMES * (HEADERS + PAYLOAD + OUTER));
    for (from, to, at) in [(0, 1, 1), (1, 0, 0)] {
        let ends = |record: &Record| {
            let tuple = record.tuple("/nat/original");
            tuple.is_some_and(|(source, destination)| {
                source.ip() == nodes[from].ip
                    && destination.ip() == nodes[to].ip
                    && destination.port() == 8472
            })
        };
        let record = one(&agent, "the tunnel's packets", |record| {
            ends(record) && number(record.ext("/forward/packets_total")) == Some(TIMES)
        })?;
        assert_eq!(record.path(), ["eth0"]);
        let counts = record.hop("eth0")?.both_ways().context("no counts")?;
        assert_eq!(counts[at], outer);
        assert_eq!(record.ext("/encapsulation/kind"), "vxlan");
        assert_eq!(number(record.ext("/encapsulation/vni")), Some(1));
    }

    eventually("the hooks saw what the device counted", || {
        let (hook, link) = counted(&lab, &agent)?;
        ensure!(
            hook == link && hook[0] >= TIMES,
            "hook {hook:?}, device {link:?}"
        );
        Ok(true)
    })
}
