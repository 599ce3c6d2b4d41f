//! Floods: how many of many short conversations are attributed and told, and what memory that
//! takes. What is neither attributed nor counted as unattributed is an error, not a figure.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nodescope_tests::lab::{self, Agent, lab_command};

use crate::agent;
use crate::figure::{Figure, Goal, Report};
use crate::stop::Stop;

/// Conversations, seconds that they are sent in, and their name.
const FLOODS: [(u32, f64, &str); 2] = [(200_000, 4.0, "200k"), (1_000_000, 60.0, "1m")];
/// How long all that was sent may take to be counted and told, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
const PORT: u16 = 20_000;

/// Sends each flood to an agent with its defaults.
///
/// # Errors
/// The lab or the agent does not start, a packet is nowhere, or the user wants an end.
pub fn measure(rounds: u32, stop: &Stop, report: &mut Report) -> anyhow::Result<()> {
    for (flows, seconds, name) in FLOODS {
        eprintln!("a flood of {flows} conversations in {seconds} s");
        let (mut attributed, mut told, mut peak, mut after) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            stop.check()?;
            let found = flood(flows, seconds)?;
            let percent = |part: u64| part as f64 / f64::from(flows) * 100.0;
            attributed.push(percent(found.attributed));
            told.push(percent(found.told));
            peak.push(found.peak_mib);
            after.push(found.after_mib);
        }
        let goal = Goal::AtLeast(95.0);
        let attributed = Figure::new(format!("flood_{name}_attributed_percent"), "%", attributed);
        report.add(attributed.goal(goal));
        let told = Figure::new(format!("flood_{name}_told_percent"), "%", told);
        report.add(told.goal(goal));
        report.add(Figure::new(format!("flood_{name}_peak_mib"), "MiB", peak));
        report.add(Figure::new(format!("flood_{name}_after_mib"), "MiB", after));
    }
    report.note(
        "Floods: UDP, a datagram each, masqueraded, at three hooks; attributed: in a record of the \
         pod's interface; told: connections of which there was a record.",
    );
    Ok(())
}

struct Found {
    attributed: u64,
    told: u64,
    peak_mib: f64,
    after_mib: f64,
}

fn flood(flows: u32, seconds: f64) -> anyhow::Result<Found> {
    let lab = agent::lab()?;
    let agent = lab.start_agent_without_log(0, &[])?;
    let veth = lab.pod("web")?.host_interface().to_owned();
    let counted = || anyhow::Ok(lab.link_stats(&lab.node(0), &veth)?.rx_packets);
    let before = Seen::of(&agent, &veth)?;
    let counted_before = counted()?;

    let to = format!("{}:{PORT}", lab.topology().vm.ip());
    let (flows_arg, seconds_arg) = (flows.to_string(), seconds.to_string());
    let args = [
        "udp-flood",
        &to,
        "--flows",
        &flows_arg,
        "--seconds",
        &seconds_arg,
    ];
    let mut sender = lab.spawn(&lab.pod("web")?.netns(), lab_command(args)?)?;
    let status = sender.wait(PATIENCE)?.context("the flood does not end")?;
    ensure!(status.success(), "{args:?}: {status} {}", sender.stderr());

    let sent = counted()? - counted_before;
    ensure!(sent >= u64::from(flows), "{sent} of {flows} were sent");
    let mut last = before;
    let all_there = || {
        last = Seen::of(&agent, &veth).unwrap_or(before);
        let packets = last.packets - before.packets;
        let left = u64::from(flows).saturating_sub(last.full - before.full);
        packets == counted().unwrap_or_default() - counted_before && last.told - before.told >= left
    };
    let outcome = lab::wait_for(
        "all that was sent to be counted and told",
        PATIENCE,
        all_there,
    );
    outcome.with_context(|| format!("{before:?}, then {last:?}, sent {sent}"))?;
    let told = last.told - before.told;
    ensure!(told <= sent, "{told} told of {sent}");
    Ok(Found {
        attributed: u64::from(flows).saturating_sub(last.full - before.full),
        told,
        peak_mib: memory(&agent, "VmHWM:")?,
        after_mib: memory(&agent, "VmRSS:")?,
    })
}

/// What the agent's metrics say.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Packets at the ingress of the pod's interface.
    packets: u64,
    /// Those of them that found the table full.
    full: u64,
    /// Connections that were told.
    told: u64,
}

impl Seen {
    fn of(agent: &Agent, veth: &str) -> anyhow::Result<Self> {
        let text = agent.metrics()?;
        let interface = format!("interface=\"{veth}\"");
        let ingress = "direction=\"ingress\"";
        let sum = |name: &str, labels: &[&str]| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines
                .filter(|rest| rest.starts_with('{'))
                .filter(|rest| labels.iter().all(|label| rest.contains(label)))
                .filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum::<f64>() as u64
        };
        Ok(Self {
            packets: sum("nodescope_hook_packets_total", &[&interface, ingress]),
            full: sum(
                "nodescope_hook_unattributed_packets_total",
                &[&interface, ingress, "reason=\"map_full\""],
            ),
            // Of whatever class: without an API a pod has no name before its neighbour entry is
            // there, and nothing else is sent in this lab.
            told: sum("nodescope_connections_opened_total", &[]),
        })
    }
}

/// A line of proc_pid_status(5) in MiB.
fn memory(agent: &Agent, field: &str) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let kib: f64 = number.with_context(|| format!("no {field}"))?.parse()?;
    Ok(kib / 1024.0)
}
