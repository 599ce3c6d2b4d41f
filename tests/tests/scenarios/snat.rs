//! Scenario 11: translated on the way out, exactly as conntrack has it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use nodescope_tests::lab::{Agent, ConntrackEntry, Lab};
use serde_json::json;

use crate::common::{Record, agent, between, closed, get, lab, one, synced};

/// The entry of the connection that a pod made from this port.
fn entry(lab: &Lab, from: SocketAddr, to: SocketAddr) -> Result<ConntrackEntry> {
    lab.conntrack(0)?
        .into_iter()
        .find(|entry| {
            let original = entry.original;
            SocketAddr::new(original.src, original.sport) == from
                && SocketAddr::new(original.dst, original.dport) == to
        })
        .with_context(|| format!("conntrack has no entry {from} -> {to}"))
}

/// Holds a record's tuples against the entry.
fn agrees(record: &Record, entry: &ConntrackEntry, source: &str) {
    let (original, translated) = (entry.original, entry.translated());
    assert_eq!(
        record.tuple("/nat/original"),
        Some((
            SocketAddr::new(original.src, original.sport),
            SocketAddr::new(original.dst, original.dport)
        ))
    );
    assert_eq!(
        record.tuple("/nat/translated"),
        Some((
            SocketAddr::new(translated.src, translated.sport),
            SocketAddr::new(translated.dst, translated.dport)
        ))
    );
    assert_eq!(record.ext("/nat/kind"), "snat");
    assert_eq!(record.ext("/nat/source"), source);
    assert_eq!(record.ext("/nat/cause"), "masquerade");
}

/// A pod to the VM on the VNet and to the host on premises.
#[test]
fn scenario_11_snat_is_what_conntrack_says() -> Result<()> {
    let Some(lab) = lab("s11")? else {
        return Ok(());
    };
    to_the_outside(&lab, &agent(&lab, 0)?, "skb")
}

fn to_the_outside(lab: &Lab, agent: &Agent, source: &str) -> Result<()> {
    let web = lab.pod("web")?;
    let from = web.ip().to_string();
    for to in ["10.224.1.2", "10.1.2.3"] {
        let seen = get(&web.netns(), &format!("http://{to}:8080/"))?;
        let record = closed(agent, "the closed connection to the outside", |record| {
            between(record, &from, to, 8080)
        })?;
        let local: SocketAddr = seen["local"].as_str().context("no local")?.parse()?;
        agrees(
            &record,
            &entry(lab, local, SocketAddr::new(to.parse()?, 8080))?,
            source,
        );
        // What the server's own socket saw.
        assert_eq!(
            record.remote_sees().map(|seen| seen.to_string()),
            seen["peer"].as_str().map(str::to_owned)
        );
        assert_eq!(record.path(), [web.host_interface(), "cbr0", "eth0"]);
        assert_eq!(record.hop(web.host_interface())?.0.get("tuple"), None);
        assert!(record.hop("eth0")?.0["tuple"].is_object(), "{}", record.0);
        assert_eq!(record.ext("/class"), "pod-to-world");
        assert_eq!(record.flow("/source/pod_name"), &json!(web.name()));
        assert_eq!(record.flow("/IP/source"), &json!(from));
        assert_eq!(record.flow("/IP/source_xlated"), "10.224.0.4");
    }
    Ok(())
}

/// Two pods from the same source port to the same destination at once: the kernel has to give one
/// of them another port, and both keep their own translation.
#[test]
fn scenario_11_colliding_source_ports_keep_their_own_translation() -> Result<()> {
    let Some(lab) = lab("s11c")? else {
        return Ok(());
    };
    colliding_ports(&lab, &agent(&lab, 0)?, "skb")
}

fn colliding_ports(lab: &Lab, agent: &Agent, source: &str) -> Result<()> {
    const PORT: u16 = 45_000;
    let pods = [lab.pod("web")?, lab.pod("web2")?];
    let to: SocketAddr = "10.224.1.2:8080".parse()?;
    // Slow enough that both are open until they are ended here.
    let url = format!("http://{to}/?size=8000000");
    let port = PORT.to_string();
    let curl = [
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "--max-time",
        "150",
        "--limit-rate",
        "50k",
        "--local-port",
        &port,
        &url,
    ];
    let running = pods
        .iter()
        .map(|pod| lab.spawn(&pod.netns(), curl))
        .collect::<Result<Vec<_>>>()?;
    let mut ports = Vec::new();
    for pod in &pods {
        let from = SocketAddr::new(pod.ip().into(), PORT);
        let record = one(agent, "an open connection with its translation", |record| {
            record.tuple("/nat/original") == Some((from, to)) && record.ext("/nat/kind") == "snat"
        })?;
        agrees(&record, &entry(lab, from, to)?, source);
        assert_eq!(record.flow("/source/pod_name"), &json!(pod.name()));
        ports.push(record.remote_sees().context("no remote_sees")?);
    }
    assert_ne!(ports[0], ports[1], "there was no collision to resolve");
    assert!(
        ports
            .iter()
            .all(|seen| seen.ip().to_string() == "10.224.0.4"),
        "{ports:?}"
    );
    let mut witness: Vec<String> = Vec::new();
    drop(running);
    for served in lab.served("vm")? {
        witness.extend(served["peer"].as_str().map(str::to_owned));
    }
    for port in ports {
        assert!(
            witness.contains(&port.to_string()),
            "{port} not in {witness:?}"
        );
    }
    Ok(())
}

const OFTEN: [&str; 2] = ["--flow-interval", "500ms"];

/// Told to, the agent takes translations from conntrack's events: the same tuples.
#[test]
fn scenario_11_snat_by_netlink_is_the_same() -> Result<()> {
    let Some(lab) = lab("s11n")? else {
        return Ok(());
    };
    let netlink = [&OFTEN[..], &["--nat-source", "netlink"]].concat();
    let agent = lab.start_agent(0, &netlink)?;
    synced(&agent)?;
    to_the_outside(&lab, &agent, "netlink")?;
    colliding_ports(&lab, &agent, "netlink")
}

/// A kernel without types: the agent says so and takes translations from conntrack's events.
#[test]
fn scenario_11_snat_without_the_kernels_types() -> Result<()> {
    const HIDE: &str = "mount --bind /dev/null /sys/kernel/btf/vmlinux && exec \"$@\"";
    let Some(lab) = lab("s11b")? else {
        return Ok(());
    };
    let under = ["unshare", "--mount", "sh", "-c", HIDE, "sh"];
    let agent = lab.start_agent_under(0, &under, &OFTEN)?;
    synced(&agent)?;
    let log = agent.log();
    assert!(
        log.contains("translations come from conntrack's events"),
        "{log}"
    );
    assert!(log.contains("BTF"), "{log}");
    to_the_outside(&lab, &agent, "netlink")
}

/// Without the right to read the kernel's memory: other programs, the same counts, translations from
/// conntrack's events, and what is missing is said.
#[test]
fn scenario_33_without_cap_perfmon_the_agent_does_with_less() -> Result<()> {
    const DROP: &str = "-perfmon,-sys_admin";
    let Some(lab) = lab("s33p")? else {
        return Ok(());
    };
    let under = ["setpriv", "--bounding-set", DROP, "--inh-caps", DROP];
    let agent = lab.start_agent_under(0, &under, &OFTEN)?;
    synced(&agent)?;
    let log = agent.log();
    for less in [
        "without CAP_PERFMON packets are read by helpers",
        "translations come from conntrack's events",
        "TCP retransmissions are not counted: CAP_PERFMON is missing",
    ] {
        assert!(log.contains(less), "{less:?} is not in\n{log}");
    }
    to_the_outside(&lab, &agent, "netlink")
}
