//! Nothing is lost silently: for each hook, records and what is in none add up to what the
//! interface itself counted.

use std::collections::BTreeMap;

use anyhow::Result;
use nodescope_tests::lab::Lab;

use crate::common::{Record, agent, eventually, get, lab, metric, number, records, sample};
use crate::identity::{Counted, as_hook, hooks, interfaces, links};

/// Mixed traffic: bulk that offload joins, small packets, echoes, datagrams, names, ARP, frames
/// that are no packets at all.
fn traffic(lab: &Lab) -> Result<()> {
    for played in lab.play()? {
        assert_eq!(played.error, None, "{}", played.play.what);
    }
    let (web, web2, api) = (lab.pod("web")?, lab.pod("web2")?, lab.pod("api")?);
    for to in [
        web2.ip().to_string(),
        api.ip().to_string(),
        "10.1.2.3".to_owned(),
    ] {
        get(&web.netns(), &format!("http://{to}:8080/?size=2000000"))?;
    }
    // An EtherType for local experiments (IEEE 802), and an IPv4 packet that ends in its header.
    let frames = [
        "ffffffffffff02000000000188b50000",
        "ffffffffffff020000000001080045000014",
    ];
    web.run_lab(["raw-send", "eth0", frames[0], frames[1], "--count", "7"])?
        .success()?;
    Ok(())
}

#[test]
fn records_and_unattributed_are_what_the_interfaces_counted() -> Result<()> {
    let Some(lab) = lab("conserve")? else {
        return Ok(());
    };
    let mut agent = agent(&lab, 0)?;
    let interfaces = interfaces(&lab);
    // Until the hooks are on, interfaces count alone: the difference is taken between two points
    // at which nothing moves.
    let mut before = (BTreeMap::new(), BTreeMap::new());
    eventually("nothing moves", || {
        let now = (
            links(&lab, &interfaces)?,
            hooks(&agent.metrics()?, &interfaces)?,
        );
        let idle = now == before;
        before = now;
        Ok(idle)
    })?;

    traffic(&lab)?;

    let difference = |now: [u64; 4], then: [u64; 4]| -> [u64; 4] {
        std::array::from_fn(|at| now[at] - then[at])
    };
    eventually("the hooks saw what the interfaces counted", || {
        let counted = links(&lab, &interfaces)?;
        let seen = hooks(&agent.metrics()?, &interfaces)?;
        for interface in &interfaces {
            let witness = difference(
                as_hook(interface, &counted[interface]),
                as_hook(interface, &before.0[interface]),
            );
            let ours = difference(seen[interface], before.1[interface]);
            anyhow::ensure!(
                ours == witness && witness[0] > 0 && witness[2] > 0,
                "{interface}: hooks {ours:?}, interface {witness:?}"
            );
        }
        Ok(true)
    })?;
    let offload = metric(&agent, "nodescope_hook_offload_segments_total", &[])?;
    assert!(
        offload.is_some_and(|segments| segments > 0.0),
        "the traffic had no offloaded packets: {offload:?}"
    );

    // The records alone: the totals of every connection's hops, with what is in no record, are
    // what the hooks saw. The last interval is written when the agent stops.
    // All of one moment: ARP comes when it will, and is in no record.
    let expected = attributed(&agent.metrics()?, &interfaces)?;
    agent.stop()?;
    assert_eq!(sums(records(&agent)?), expected);
    Ok(())
}

/// What hooks saw of records' packets, as records count it, by an agent's metrics.
pub fn attributed(metrics: &str, interfaces: &[String]) -> Result<Counted> {
    let totals = hooks(metrics, interfaces)?;
    let mut expected = Counted::new();
    for interface in interfaces {
        let mut values = totals[interface];
        for (at, direction) in [(0, "ingress"), (2, "egress")] {
            let labels = [("interface", interface.as_str()), ("direction", direction)];
            let count = |name: &str| -> Result<u64> {
                Ok(sample(metrics, name, &labels)?.unwrap_or(0.0) as u64)
            };
            values[at] += count("nodescope_hook_offload_segments_total")?;
            // What only passed a bridge's queue is none of the interface's packets.
            let bridged = [labels[0], labels[1], ("reason", "bridged")];
            for (at, name) in [
                (at, "nodescope_hook_unattributed_packets_total"),
                (at + 1, "nodescope_hook_unattributed_bytes_total"),
            ] {
                values[at] -= count(name)?;
                values[at] += sample(metrics, name, &bridged)?.unwrap_or(0.0) as u64;
            }
        }
        expected.insert(interface.clone(), values);
    }
    Ok(expected)
}

/// What records say of hooks: the last totals of every connection's hops. The deltas of a
/// connection's records must add up to its totals.
pub fn sums(records: Vec<Record>) -> Counted {
    let mut sums = Counted::new();
    for record in last_of_each(records).values() {
        for hop in record.ext("/hops").as_array().into_iter().flatten() {
            let interface = hop["interface"].as_str().unwrap_or_default();
            let Some([ingress, egress]) = crate::common::Hop(hop.clone()).both_ways() else {
                continue;
            };
            // ICMP errors are in neither direction's traffic.
            let errors = crate::common::Hop(hop.clone()).errors();
            let [ingress, egress] = [
                (ingress.0 + errors[0].0, ingress.1 + errors[0].1),
                (egress.0 + errors[1].0, egress.1 + errors[1].1),
            ];
            let sum = sums.entry(interface.to_owned()).or_default();
            for (at, value) in [ingress.0, ingress.1, egress.0, egress.1]
                .iter()
                .enumerate()
            {
                sum[at] += value;
            }
        }
    }
    sums
}

/// The newest record of each connection, and the deltas of all its records must be its totals.
fn last_of_each(records: Vec<Record>) -> BTreeMap<String, Record> {
    let mut last = BTreeMap::new();
    let mut deltas: BTreeMap<String, u64> = BTreeMap::new();
    for record in records {
        let id = record.ext("/connection").to_string();
        for way in ["forward", "reply"] {
            for what in ["packets", "bytes"] {
                let count = |name: String| number(record.ext(&name)).unwrap_or_default();
                let sum = deltas.entry(format!("{id} {way} {what}")).or_default();
                *sum += count(format!("/{way}/{what}"));
                assert_eq!(
                    *sum,
                    count(format!("/{way}/{what}_total")),
                    "deltas of {id} do not add up: {}",
                    record.0
                );
            }
        }
        last.insert(id, record);
    }
    last
}
