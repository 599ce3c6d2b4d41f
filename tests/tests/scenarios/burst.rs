//! Many pods at once: all get their hooks, what each sends first is in a record, and when they go
//! nothing of them stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, Model, Netns};

use crate::common::{agent, build, eventually, records};
use crate::kernel::{entries, held};

/// Pods at once: as many as a node has at the most.
const PODS: u8 = 250;
/// The port that they send to.
const PORT: u16 = 7100;

/// The address of a pod, and the one that it sends to.
fn source(pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 246, 0, pod)
}

fn destination(pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 247, 0, pod)
}

fn host_side(pod: u8) -> String {
    format!("burst{pod}")
}

/// A namespace that holds all the pods' ends; the lab removes it.
fn peers(lab: &Lab) -> Result<Netns> {
    let peers = lab.netns("burst");
    lab.node(0)
        .tool(&["ip", "netns", "add", peers.name()], "")?;
    peers.sysctls(&[
        ("net.ipv6.conf.all.disable_ipv6", "1"),
        ("net.ipv6.conf.default.disable_ipv6", "1"),
    ])?;
    Ok(peers)
}

/// Makes pods whose neighbour is at this hardware address, each with a way out of its own.
fn create(lab: &Lab, peers: &Netns, neighbour: &str) -> Result<()> {
    let mut node = Vec::new();
    let mut inside = Vec::new();
    for pod in 1..=PODS {
        let (host, from, to) = (host_side(pod), source(pod), destination(pod));
        node.push(format!(
            "link add {host} type veth peer name p{pod} netns {}",
            peers.name()
        ));
        node.push(format!("link set {host} master cbr0 up"));
        inside.push(format!("addr add {from}/32 dev p{pod}"));
        inside.push(format!("link set p{pod} up"));
        inside.push(format!("route add {to}/32 dev p{pod} src {from}"));
        inside.push(format!("neigh add {to} lladdr {neighbour} dev p{pod}"));
    }
    lab.node(0).ip(&node)?;
    peers.ip(&inside)
}

/// Interfaces and what is on them, as `nodescope node` has them, without their counters.
fn interfaces(agent: &Agent) -> Result<BTreeSet<String>> {
    let output = agent.cli(&["node", "-o", "json"])?;
    let node: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let all = node["interfaces"].as_array().context("no interfaces")?;
    let name =
        |one: &serde_json::Value| format!("{} {} {}", one["name"], one["role"], one["attached"]);
    Ok(all.iter().map(name).collect())
}

#[test]
fn a_burst_of_pods_is_covered_and_leaves_nothing() -> Result<()> {
    let Some(lab) = build("burst", Model::Kubenet, false)? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let web2 = lab.pod("web2")?;
    // Where all packets go: the bridge knows the port, the pod takes every address for its own, a
    // socket counts.
    let sink = web2.netns();
    sink.sysctls(&[
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.eth0.rp_filter", "0"),
    ])?;
    sink.ip(&["route add local 10.247.0.0/24 dev lo".to_owned()])?;
    let entry = format!(
        "bridge fdb replace {} dev {} master static",
        web2.mac(),
        web2.host_interface()
    );
    lab.node(0)
        .tool(&entry.split(' ').collect::<Vec<_>>(), "")?;
    let socket = sink.enter(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
    socket.set_nonblocking(true)?;
    let peers = peers(&lab)?;
    let before = (held(&agent)?, interfaces(&agent)?);

    create(&lab, &peers, &web2.mac())?;
    let begun = Instant::now();
    // By itself, without a packet and without waiting for the next drain.
    eventually("all have their hooks", || {
        let now = interfaces(&agent)?;
        let new: Vec<_> = now.difference(&before.1).collect();
        let filters = new.iter().filter(|one| one.ends_with("\"clsact\"")).count();
        ensure!(
            filters > 0 || new.is_empty(),
            "nobody was in a hurry: {new:?}"
        );
        Ok(new.len() == usize::from(PODS))
    })?;
    println!("{PODS} pods had their hooks {:?} later", begun.elapsed());
    let from = peers.enter(|| -> Result<u16> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for pod in 1..=PODS {
            socket.send_to(b"first", (destination(pod), PORT))?;
        }
        Ok(socket.local_addr()?.port())
    })??;

    // One packet of each in a record, at the pod's own interface and at the sink's.
    let size = 14 + 20 + 8 + 5;
    let mut missing: BTreeMap<String, u8> = (1..=PODS).map(|pod| (host_side(pod), pod)).collect();
    eventually("every pod's first packet is in a record", || {
        for record in records(&agent)? {
            let Some((source, to)) = record.tuple("/nat/original") else {
                continue;
            };
            let path = record.path();
            let Some(pod) = path.first().and_then(|name| missing.get(*name).copied()) else {
                continue;
            };
            let host = host_side(pod);
            let wanted = [host.as_str(), "cbr0", web2.host_interface()];
            let counts = record.hop(&host)?.both_ways();
            if path == wanted
                && source == (self::source(pod), from).into()
                && to == (destination(pod), PORT).into()
                && counts == Some([(1, size), (0, 0)])
            {
                missing.remove(&host);
            }
        }
        ensure!(
            missing.is_empty(),
            "{} missing: {:?}",
            missing.len(),
            missing.keys()
        );
        Ok(true)
    })?;
    let mut arrived = 0;
    while socket.recv(&mut [0; 16]).is_ok() {
        arrived += 1;
    }
    assert_eq!(arrived, u32::from(PODS));

    // They go, all at once.
    let indexes = lab.node(0).ip_json(&["link", "show", "type", "veth"])?;
    let ours = indexes.as_array().into_iter().flatten().filter(|link| {
        let name = link["ifname"].as_str().unwrap_or_default();
        name.starts_with("burst")
    });
    let indexes: Vec<u32> = ours
        .filter_map(|link| u32::try_from(link["ifindex"].as_u64()?).ok())
        .collect();
    ensure!(indexes.len() == usize::from(PODS), "{indexes:?}");
    lab.node(0)
        .tool(&["ip", "netns", "del", peers.name()], "")?;
    eventually("nothing of them is left", || {
        let now = (held(&agent)?, interfaces(&agent)?);
        ensure!(now == before, "{now:?} instead of {before:?}");
        let left = entries(&agent, &indexes)?;
        ensure!(left.values().all(|count| *count == 0), "{left:?}");
        Ok(!agent.metrics()?.contains("\"burst"))
    })
}
