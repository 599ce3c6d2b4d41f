//! What the lab's own rules do agrees with what the real kube-proxy's do.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use nodescope_tests::lab::{ConntrackEntry, Lab, Protocol, Service, Tuple};

use crate::{get, real_with};

/// One call: from whom, to what, and the port that it comes from so that it is found again.
const CALLS: [(&str, &str, &str); 6] = [
    ("web", "http://10.0.201.84/", "a service on the other node"),
    ("web", "http://10.0.112.8/", "a service on this node"),
    ("web", "http://10.0.37.21/", "itself through its service"),
    ("node0", "http://10.0.201.84/", "the node, a service"),
    (
        "vm",
        "http://10.224.0.4:30080/",
        "a node port, backend beyond",
    ),
    ("web", "http://10.224.0.5:30080/", "a pod, a node port"),
];

/// For the same calls both give the same translations on the node that translates.
#[test]
fn the_same_calls_are_translated_alike() -> Result<()> {
    let front = || {
        let mut front = Service::new("default", "front", [10, 0, 9, 9].into())
            .port("http", Protocol::Tcp, 80, 8080)
            .node_port(30080);
        front.selector = Some(("app".to_owned(), "api".to_owned()));
        front
    };
    let Some(real) = real_with("ragree", |builder| builder.service(front()))? else {
        return Ok(());
    };
    let of_real = translations(&real)?;
    drop(real);
    let own = Lab::builder("oagree")
        .promiscuous_bridge(false)
        .simulated()
        .service(front())
        .start()?;
    assert_eq!(translations(&own)?, of_real);
    Ok(())
}

/// By call: how each node's conntrack has it, without the ports that are chosen anew each time.
fn translations(lab: &Lab) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let mut all = BTreeMap::new();
    for (who, url, what) in CALLS {
        let from = match who {
            "vm" => lab.vm(),
            "node0" => lab.node(0),
            pod => lab.pod(pod)?.netns(),
        };
        let seen = get(&from, &[url]).with_context(|| what.to_owned())?;
        let local = seen["local"].as_str().context("no address")?;
        let mut found = Vec::new();
        for node in 0..lab.topology().nodes.len() {
            for entry in lab.conntrack(node)? {
                if format!("{}:{}", entry.original.src, entry.original.sport) == local {
                    found.push(format!("node{node}: {}", shape(&entry)));
                }
            }
        }
        let (peer, _) = seen["peer"]
            .as_str()
            .unwrap_or_default()
            .split_once(':')
            .unwrap_or_default();
        found.push(format!("the server sees {peer}"));
        all.insert(what, found);
    }
    Ok(all)
}

fn shape(entry: &ConntrackEntry) -> String {
    let ends = |tuple: &Tuple| format!("{} → {}:{}", tuple.src, tuple.dst, tuple.dport);
    format!(
        "{}, then {}",
        ends(&entry.original),
        ends(&entry.translated())
    )
}
