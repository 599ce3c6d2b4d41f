//! More than fits: floods, a table that is full, a ring that is full, an agent that does not run.
//! Whatever happens, records and what is in none are what the interfaces counted.

use std::time::Duration;

use anyhow::{Context, Result};
use nodescope_tests::lab::{Agent, Lab, lab_command};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::{eventually, lab, metric, number, records, synced};
use crate::identity::{Since, map_full};

/// Time for a flood on a machine that has other things to do.
const FLOOD_TIMEOUT: Duration = Duration::from_secs(150);

/// Runs a program of the lab in the pod `web`, as long as it takes, and gives what it said.
fn in_web(lab: &Lab, args: &[&str]) -> Result<Value> {
    let mut process = lab.spawn(&lab.pod("web")?.netns(), lab_command(args)?)?;
    let status = process.wait(FLOOD_TIMEOUT)?.context("still runs")?;
    anyhow::ensure!(status.success(), "{args:?}: {status} {}", process.stderr());
    println!("{}", process.stdout().trim());
    Ok(serde_json::from_str(&process.stdout())?)
}

/// Sends datagrams of so many 5-tuples from `web` to the VM; how many were sent.
fn flood(lab: &Lab, flows: u32, seconds: f64) -> Result<u64> {
    flood_to(lab, 20_000, flows, seconds)
}

/// The same to ports from this one on.
fn flood_to(lab: &Lab, port: u16, flows: u32, seconds: f64) -> Result<u64> {
    let to = format!("{}:{port}", lab.topology().vm.ip());
    let (flows, seconds) = (flows.to_string(), seconds.to_string());
    let args = ["udp-flood", &to, "--flows", &flows, "--seconds", &seconds];
    in_web(lab, &args)?["sent"].as_u64().context("no count")
}

/// A sum over all hooks of a reason.
fn full(agent: &Agent) -> Result<u64> {
    let labels = [("reason", "map_full")];
    let found = metric(agent, "nodescope_hook_unattributed_packets_total", &labels)?;
    Ok(found.unwrap_or(0.0) as u64)
}

/// Connections from pods to the VM that were told.
fn told(agent: &Agent) -> Result<u64> {
    let labels = [("class", "pod-to-world")];
    let found = metric(agent, "nodescope_connections_opened_total", &labels)?;
    Ok(found.unwrap_or(0.0) as u64)
}

/// The peak of the agent's resident memory in KiB (`VmHWM`, proc_pid_status(5)).
fn peak(agent: &Agent) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.context("no VmHWM")?.parse()?)
}

/// Three times as many conversations as there may be, through pod, bridge and uplink: 200,000 at
/// the default settings, here a sixteenth of both, for a debug build beside other tests.
#[test]
fn a_flood_of_conversations_is_attributed() -> Result<()> {
    let Some(lab) = lab("flood")? else {
        return Ok(());
    };
    let agent = lab.start_agent_without_log(0, &["--max-connections", "4096"])?;
    synced(&agent)?;
    let since = Since::still(&lab, &agent)?;
    let veth = lab.pod("web")?.host_interface().to_owned();

    let before = told(&agent)?;
    let sent = flood(&lab, 12_500, 0.25)?;
    let seen = since.agree(&lab, &agent)?;
    assert!(seen[&veth][0] >= sent, "{seen:?}");
    for (interface, direction) in [(&*veth, "ingress"), ("cbr0", "ingress"), ("eth0", "egress")] {
        let missed = map_full(&agent, interface, direction)?;
        println!("{interface} {direction}: {missed} of {sent} in no record");
        assert!(
            missed * 20 <= sent,
            "{interface}: {missed} of {sent} in no record"
        );
    }
    // Each is told, and none twice, whatever was closed early.
    let most = sent - map_full(&agent, &veth, "ingress")?;
    eventually("all are told", || Ok(told(&agent)? - before >= most))?;
    let all = told(&agent)? - before;
    assert!(all <= sent, "{all} told of {sent}");
    println!("peak {} KiB", peak(&agent)?);
    Ok(())
}

/// 20,000 connections that end as soon as they are made.
#[test]
fn a_burst_of_short_connections_is_counted_exactly() -> Result<()> {
    let Some(lab) = lab("shorts")? else {
        return Ok(());
    };
    let agent = lab.start_agent_without_log(0, &[])?;
    synced(&agent)?;
    let since = Since::still(&lab, &agent)?;
    let to = format!("{}:8080", lab.pod("web2")?.ip());
    in_web(&lab, &["tcp-burst", &to, "--count", "20000"])?;
    let seen = since.agree(&lab, &agent)?;
    // SYN, ACK and FIN of each at the least.
    let veth = lab.pod("web")?.host_interface().to_owned();
    assert!(seen[&veth][0] >= 60_000, "{seen:?}");
    assert_eq!(full(&agent)?, 0);
    Ok(())
}

/// A stopped process, a table and a ring that are too small: what happened is said, and when the
/// agent runs again all is as before.
#[test]
fn a_stopped_agent_loses_nothing_silently() -> Result<()> {
    let Some(lab) = lab("sigstop")? else {
        return Ok(());
    };
    // Room for 24,576 records: more than the ring has for their events.
    let mut agent = lab.start_agent_without_log(0, &["--max-connections", "2048"])?;
    synced(&agent)?;
    let since = Since::still(&lab, &agent)?;
    let veth = lab.pod("web")?.host_interface().to_owned();
    let told_before = told(&agent)?;

    agent.process().signal(Signal::STOP)?;
    // It is stopped for as long as that takes.
    let sent = flood(&lab, 30_000, 10.0)?;
    agent.process().signal(Signal::CONT)?;

    let seen = since.agree(&lab, &agent)?;
    assert!(seen[&veth][0] >= sent, "{seen:?}");
    let missed = map_full(&agent, &veth, "ingress")?;
    assert!(missed > 0 && missed < sent, "{missed} of {sent}");
    let lost = metric(&agent, "nodescope_events_lost_total", &[("kind", "open")])?;
    assert!(lost.is_some_and(|lost| lost > 0.0), "{lost:?}");

    // It makes room by itself, and says so.
    eventually("the table has room again", || {
        let entries = metric(&agent, "nodescope_flow_table_entries", &[])?;
        let limit = metric(&agent, "nodescope_flow_table_limit", &[])?;
        Ok(entries < limit.map(|limit| limit * 0.8))
    })?;
    let given_up = metric(&agent, "nodescope_given_up_total", &[("kind", "record")])?;
    assert!(given_up.is_some_and(|count| count > 0.0), "{given_up:?}");
    // All that is in some record is told once.
    let left = sent - missed;
    eventually("all are told", || Ok(told(&agent)? - told_before >= left))?;
    let all = told(&agent)? - told_before;
    assert!(all <= sent, "{all} told of {sent}");
    // And counts on: nothing of what comes now finds it full, and all of it is told.
    let (before, told_before) = (full(&agent)?, told(&agent)?);
    let sent = flood_to(&lab, 30_000, 1_000, 0.1)?;
    since.agree(&lab, &agent)?;
    assert_eq!(full(&agent)?, before);
    eventually("what came afterwards is told", || {
        Ok(told(&agent)? - told_before >= sent)
    })?;
    assert_eq!(told(&agent)? - told_before, sent);
    Ok(())
}

/// SIGTERM and SIGINT write the interval that is not over: counts in the log are what was sent.
#[test]
fn the_last_interval_is_written_whatever_the_signal() -> Result<()> {
    let Some(lab) = lab("lastword")? else {
        return Ok(());
    };
    for signal in [Signal::TERM, Signal::INT] {
        let mut agent = lab.start_agent(0, &["--flow-interval", "1h"])?;
        synced(&agent)?;
        let before = records(&agent)?.len();
        let sent = flood(&lab, 300, 0.1)?;
        let status = agent.process().end_with(signal, Duration::from_secs(30))?;
        assert!(status.success(), "{signal:?}: {status}");
        let all = records(&agent)?;
        let counted: u64 = all[before..]
            .iter()
            .filter(|record| {
                let tuple = record.tuple("/nat/original");
                tuple.is_some_and(|(_, to)| to.port() == 20_000)
            })
            .filter_map(|record| number(record.ext("/forward/packets")))
            .sum();
        assert_eq!(counted, sent, "{signal:?}");
    }
    Ok(())
}
