//! What the lab does by itself agrees with a real kube-proxy.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use nodescope_tests::lab::{
    ConntrackEntry, Lab, LabBuilder, PodSpec, Protocol, Service, Topology, Tuple,
};

use crate::{get, real_with};

/// Health-check node port of the service with policy Local.
const HEALTH: u16 = 31_990;

/// kube-proxy's own health port.
const PROXY: u16 = 10_256;

/// One call: from whom, to what, and what it is.
type Call = (&'static str, String, &'static str);

fn calls() -> Vec<Call> {
    let vip = |number| format!("http://{}/", Topology::kubenet().vip(number));
    let to = |url: &str| format!("http://{url}/");
    vec![
        ("web", to("10.0.201.84"), "a service on the other node"),
        ("web", to("10.0.112.8"), "a service on this node"),
        ("web", to("10.0.37.21"), "itself through its service"),
        ("node0", to("10.0.201.84"), "the node, a service"),
        ("vm", to("10.224.0.4:30080"), "a node port, backend beyond"),
        ("web", to("10.224.0.5:30080"), "a pod, a node port"),
        ("vm", vip(1), "a load balancer, backend beyond"),
        ("vm", vip(2), "a load balancer with policy Local"),
        ("web", vip(1), "a pod, a load balancer"),
        ("web", vip(2), "a pod, one with policy Local"),
        ("node0", vip(1), "the node, a load balancer"),
    ]
}

/// Services of every kind in front of `api`, which is on node 1, and one with session affinity.
fn services(builder: LabBuilder) -> LabBuilder {
    let service = |name: &str, app: &str, last: u8| {
        let mut service = Service::new("default", name, [10, 0, 9, last].into()).port(
            "http",
            Protocol::Tcp,
            80,
            8080,
        );
        service.selector = Some(("app".to_owned(), app.to_owned()));
        service
    };
    let topology = Topology::kubenet();
    let replica = |short: &str, node| PodSpec::new(short, node).app("sticky").serving();
    builder
        .pod(replica("sticky1", 0))
        .pod(replica("sticky2", 1))
        .service(service("front", "api", 9).node_port(30080))
        .service(service("open", "api", 1).load_balancer(topology.vip(1)))
        .service(
            service("near", "api", 2)
                .load_balancer(topology.vip(2))
                .local(HEALTH),
        )
        .service(service("sticky", "sticky", 3).session_affinity(600))
}

/// For the same calls both give the same translations on the node that translates, and the same
/// answers to a load balancer's questions.
#[test]
fn the_same_calls_are_translated_alike() -> Result<()> {
    let Some(real) = real_with("ragree", services)? else {
        return Ok(());
    };
    let of_real = seen(&real)?;
    drop(real);
    let own = services(Lab::builder("oagree"))
        .promiscuous_bridge(false)
        .simulated()
        // Those of the version that the real ones are of.
        .old_health_answers()
        .start()?;
    for ((what, own), (_, real)) in seen(&own)?.iter().zip(&of_real) {
        assert_eq!(own, real, "{what}");
    }
    Ok(())
}

/// By call: how each node's conntrack has it, without the ports that are chosen anew each time;
/// and everything else that is to be the same.
fn seen(lab: &Lab) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let topology = lab.topology();
    // Where the backend is not, and where it is.
    lab.lb(topology.vip(1)).steer(0)?;
    lab.lb(topology.vip(2)).steer(1)?;
    let mut all = BTreeMap::new();
    for (who, url, what) in calls() {
        all.insert(what, translated(lab, who, &url).context(what)?);
    }
    lab.lb(topology.vip(2)).steer(0)?;
    let url = format!("http://{}/", topology.vip(2));
    let lost = lab.vm().run_lab(["http-get", &url, "--timeout", "1"])?;
    let answered = lost.status.success().to_string();
    all.insert("policy Local where the backend is not", vec![answered]);

    let sticky = ["http-get", "http://10.0.9.3/", "--count", "10"];
    lab.pod("web")?.run_lab(sticky)?.success()?;
    let mut shares = [lab.served("sticky1")?.len(), lab.served("sticky2")?.len()];
    shares.sort_unstable();
    let shares = shares.iter().map(ToString::to_string).collect();
    all.insert("a client and its endpoint", shares);

    all.insert("health: an endpoint", health(lab, 1, HEALTH)?);
    all.insert("health: none", health(lab, 0, HEALTH)?);
    let mut proxy = health(lab, 0, PROXY)?;
    // The body is the time of day: its form counts.
    let body: serde_json::Value = serde_json::from_str(&proxy.pop().unwrap_or_default())?;
    proxy.retain(|line| !line.starts_with("content-length"));
    proxy.extend(body.as_object().context("no object")?.keys().cloned());
    all.insert("health: kube-proxy itself", proxy);
    Ok(all)
}

/// A call as each node's conntrack has it, and what the server saw.
fn translated(lab: &Lab, who: &str, url: &str) -> Result<Vec<String>> {
    let from = match who {
        "vm" => lab.vm(),
        "node0" => lab.node(0),
        pod => lab.pod(pod)?.netns(),
    };
    let seen = get(&from, &[url])?;
    let local = seen["local"].as_str().context("no address")?;
    let mut found = Vec::new();
    for node in 0..lab.topology().nodes.len() {
        for entry in lab.conntrack(node)? {
            if format!("{}:{}", entry.original.src, entry.original.sport) == local {
                found.push(format!("node{node}: {}", shape(&entry)));
            }
        }
    }
    let peer = seen["peer"].as_str().unwrap_or_default();
    let (peer, _) = peer.split_once(':').unwrap_or_default();
    found.push(format!("the server sees {peer}"));
    Ok(found)
}

/// What a health port of a node answers the load balancer: the status line, the headers in order
/// (without the time of day), the body.
fn health(lab: &Lab, node: usize, port: u16) -> Result<Vec<String>> {
    let to = format!("{}:{port}", lab.topology().nodes[node].ip);
    let mut stream = lab.fabric().enter(|| TcpStream::connect(&to))??;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET /healthz HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let mut head = head.split("\r\n").map(str::to_lowercase);
    let status = head.next().context("no status")?;
    let mut headers: Vec<String> = head.filter(|line| !line.starts_with("date:")).collect();
    headers.sort();
    Ok([vec![status], headers, vec![body.to_owned()]].concat())
}

fn shape(entry: &ConntrackEntry) -> String {
    let ends = |tuple: &Tuple| format!("{} → {}:{}", tuple.src, tuple.dst, tuple.dport);
    format!(
        "{}, then {}",
        ends(&entry.original),
        ends(&entry.translated())
    )
}
