//! What the agent takes of the machine as connections grow: processor and memory.
//!
//! The connections are UDP, each kept alive by a datagram now and then from a pod through its
//! veth, the bridge and the uplink to a machine outside, masqueraded: three records in the
//! kernel's table and a translation each, which is what a connection costs at the most.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use nodescope_tests::lab::{Lab, wait_for};

use crate::agent::{self, Agent};
use crate::figure::{Figure, Goal, Report};
use crate::stop::Stop;

/// How many connections at a time.
const SIZES: [(u32, &str); 3] = [(1_000, "1k"), (10_000, "10k"), (100_000, "100k")];
/// Each sends a datagram this often: less than conntrack waits for an unanswered one (30 s).
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Destination ports that the sockets share.
const PORTS: u32 = 100;
const FIRST_PORT: u16 = 21_000;
/// The length of a round: two of the default flow interval.
const ROUND: Duration = Duration::from_secs(10);
/// New connections a second while they are set up.
const PACE: u64 = 25_000;
/// `--max-connections`: the default holds 65,536.
const LIMIT: &str = "131072";

/// Measures an agent that idles, and one with each number of connections.
///
/// # Errors
/// The lab or the agent does not start, or the user wants an end.
pub fn measure(rounds: u32, stop: &Stop, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("the agent's own processor time and memory");
    let lab = agent::lab()?;
    let options = ["--max-connections", LIMIT];
    let idle = Agent::start(&lab, &options)?;
    thread::sleep(Duration::from_secs(2));
    let (cpu, rss) = sample(&idle, rounds, stop)?;
    idle.stop()?;
    report.add(Figure::new("cpu_percent_idle", "%", cpu).goal(Goal::AtMost(0.3)));
    report.add(Figure::new("rss_mib_idle", "MiB", rss));
    for (connections, name) in SIZES {
        stop.check()?;
        let agent = Agent::start(&lab, &options)?;
        let (cpu, rss) = loaded(&lab, &agent, connections, rounds, stop)?;
        agent.stop()?;
        let mut cpu = Figure::new(format!("cpu_percent_{name}"), "%", cpu);
        let mut rss = Figure::new(format!("rss_mib_{name}"), "MiB", rss);
        if name == "100k" {
            cpu = cpu.goal(Goal::AtMost(5.0));
            rss = rss.goal(Goal::AtMost(80.0));
        }
        report.add(cpu);
        report.add(rss);
    }
    report.note(format!(
        "Connections: UDP, a datagram each every {} s, masqueraded, at three hooks; \
         --max-connections {LIMIT}, else defaults.",
        KEEP_ALIVE.as_secs()
    ));
    Ok(())
}

/// Percent of a processor and MiB in each round.
fn sample(agent: &Agent, rounds: u32, stop: &Stop) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (mut cpu, mut rss) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        stop.check()?;
        cpu.push(agent.share(ROUND)?);
        rss.push(agent.resident()?);
    }
    Ok((cpu, rss))
}

fn loaded(
    lab: &Lab,
    agent: &Agent,
    connections: u32,
    rounds: u32,
    stop: &Stop,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let far = lab.topology().vm.ip();
    // Nobody reads: the datagrams end here, and no error goes back.
    let _sinks = lab.vm().enter(|| {
        let ports = (0..PORTS as u16).map(|port| FIRST_PORT + port);
        let sockets = ports.map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
        sockets.collect::<std::io::Result<Vec<_>>>()
    })??;
    let sockets = lab.pod("web")?.netns().enter(|| {
        let any = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        (0..connections.div_ceil(PORTS))
            .map(|_| any())
            .collect::<std::io::Result<Vec<_>>>()
    })??;
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| keep_alive(&sockets, far, connections, &sent, &over));
        let measured = (|| {
            let all = || sent.load(Ordering::Relaxed) >= u64::from(connections);
            wait_for("the connections to begin", Duration::from_secs(60), all)?;
            // Their first records are out, and their first update.
            thread::sleep(Duration::from_secs(8));
            let known = known(agent)?;
            ensure!(
                known * 10 >= u64::from(connections) * 9,
                "the agent knows {known} of {connections} connections"
            );
            sample(agent, rounds, stop)
        })();
        over.store(true, Ordering::Relaxed);
        measured
    })
}

/// Sends one datagram of each connection in turn: fast at first, then once each in `KEEP_ALIVE`.
fn keep_alive(
    sockets: &[UdpSocket],
    far: Ipv4Addr,
    connections: u32,
    sent: &AtomicU64,
    over: &AtomicBool,
) {
    let mut pace = PACE;
    loop {
        let start = Instant::now();
        for number in 0..connections {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let port = FIRST_PORT + (number % PORTS) as u16;
            let socket = &sockets[(number / PORTS) as usize];
            // One that is lost is as good as one that was never sent: the next comes.
            let _ = socket.send_to(&[0; 22], SocketAddr::from((far, port)));
            sent.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_nanos(u64::from(number) * 1_000_000_000 / pace);
            if let Some(early) = due.checked_sub(start.elapsed())
                && early > Duration::from_millis(2)
            {
                thread::sleep(early.min(Duration::from_millis(50)));
            }
        }
        pace = (u64::from(connections) / KEEP_ALIVE.as_secs()).max(1);
    }
}

/// Connections that the agent knows, by the entries of its table: three each.
fn known(agent: &Agent) -> anyhow::Result<u64> {
    let node = agent.describe()?;
    let entries = &node["flow_table"]["entries"];
    let entries = entries.as_u64().or_else(|| entries.as_str()?.parse().ok());
    Ok(entries.unwrap_or(0) / 3)
}
