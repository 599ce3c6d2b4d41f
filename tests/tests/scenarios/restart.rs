//! One agent after another on a node: no packet is missed in between, and none is told twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, Netns};
use rustix::process::Signal;

use crate::common::{PATIENCE, Record, eventually, get, lab, number, one, records, synced};
use crate::conservation::{attributed, sums};
use crate::identity::{Counted, Since, interfaces};

/// An agent that leaves its programs and tables for the next one.
fn start(lab: &Lab, attach: &str, extra: &[&str]) -> Result<Agent> {
    let bpffs = lab.bpffs()?;
    let mut flags = vec!["--flow-interval", "300ms", "--attach", attach, "--bpffs"];
    let bpffs = bpffs.to_string_lossy();
    flags.push(&bpffs);
    flags.extend(extra);
    let agent = lab.start_agent(0, &flags)?;
    synced(&agent)?;
    Ok(agent)
}

/// Short connections, one after the other, until told to stop.
#[derive(Default)]
struct Short {
    over: AtomicBool,
    made: Mutex<usize>,
    /// Who waits for `made` has this, so that the next connection waits for both.
    turn: Mutex<()>,
}

impl Short {
    fn make(&self, from: &Netns, url: &str) -> Result<()> {
        while !self.over.load(Ordering::Acquire) {
            drop(lock(&self.turn));
            let mut made = lock(&self.made);
            get(from, url)?;
            *made += 1;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills an agent in the middle of a flow interval. A portion of records is noted right after it
/// is written, and one that is killed in between leaves it to be told again: short connections,
/// whose records come at any time, wait for so long.
fn kill_between_records(agent: &mut Agent, short: &Short) -> Result<()> {
    let _turn = lock(&short.turn);
    let made = lock(&short.made);
    eventually("all short connections are told", || {
        let all = records(agent)?;
        let closed = all
            .iter()
            .filter(|one| !is_echo(one) && one.event() == "close");
        Ok(closed.count() >= *made)
    })?;
    let before = echoes(agent)?;
    eventually("another interval is told", || Ok(echoes(agent)? > before))?;
    // It has noted that by the time that it answers.
    agent.metrics()?;
    agent.kill9()
}

fn is_echo(record: &Record) -> bool {
    record.flow("/l4/ICMPv4").is_object()
}

/// How many records of echoes an agent has written.
fn echoes(agent: &Agent) -> Result<usize> {
    Ok(records(agent)?.iter().filter(|one| is_echo(one)).count())
}

/// In the midst of traffic an agent is killed, the next one is told to stop, the third has tables
/// of another size. While none runs, traffic goes on.
fn nothing_is_missed(name: &str, attach: &str) -> Result<()> {
    let Some(lab) = lab(name)? else {
        return Ok(());
    };
    let (web, web2, api) = (lab.pod("web")?, lab.pod("web2")?, lab.pod("api")?);
    let mut first = start(&lab, attach, &[])?;
    let since = Since::still(&lab, &first)?;
    let (near, far) = (web2.ip().to_string(), api.ip().to_string());
    let (near_url, far_url) = (
        format!("http://{near}:8080/"),
        format!("http://{far}:8080/"),
    );
    // One conversation that lasts through everything.
    let mut ping = lab.spawn(&web.netns(), ["ping", "-q", "-i", "0.02", &far])?;
    let short = Short::default();
    let mut agents = thread::scope(|scope| -> Result<Vec<Agent>> {
        let client = scope.spawn(|| short.make(&web.netns(), &near_url));
        let sequence = || -> Result<Vec<Agent>> {
            eventually("echoes are told", || Ok(echoes(&first)? >= 2))?;
            kill_between_records(&mut first, &short)?;
            // Nobody looks at these.
            for _ in 0..3 {
                get(&web.netns(), &far_url)?;
            }
            let mut second = start(&lab, attach, &[])?;
            eventually("the next agent tells echoes", || Ok(echoes(&second)? >= 2))?;
            second.stop()?;
            for _ in 0..3 {
                get(&web.netns(), &far_url)?;
            }
            let third = start(&lab, attach, &["--max-connections", "5000"])?;
            Ok(vec![first, second, third])
        };
        let agents = sequence();
        short.over.store(true, Ordering::Release);
        client
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        agents
    })?;
    // And the far ones.
    let made = *lock(&short.made) + 6;
    ping.end_with(Signal::INT, PATIENCE)?;
    let echoes = transmitted(&ping.stdout())?;

    // What the hooks saw, over all three, is what the interfaces counted.
    let third = agents.last_mut().context("no agent")?;
    since.agree(&lab, third)?;
    let mut expected = attributed(&third.metrics()?, &interfaces(&lab))?;
    // No record tells of an interface without a packet.
    expected.retain(|_, counts| *counts != [0; 4]);
    third.stop()?;
    let mut all = Vec::new();
    for agent in &agents {
        all.extend(records(agent)?);
    }
    let result = agrees(&all, &expected, echoes);
    let client = web.ip().to_string();
    let http = all.iter().filter(|record| {
        let from_client = |(from, to): (SocketAddr, SocketAddr)| {
            from.ip().to_string() == client && to.port() == 8080
        };
        record.event() == "open" && record.tuple("/nat/original").is_some_and(from_client)
    });
    let opened = http.count();
    let result = result.and_then(|()| {
        ensure!(opened == made, "{opened} connections of {made}");
        Ok(())
    });
    if result.is_err() {
        dump(&agents)?;
    }
    result
}

/// Each packet is in the records once.
fn agrees(all: &[Record], expected: &Counted, echoes: [u64; 2]) -> Result<()> {
    let found = sums(all)?;
    ensure!(found == *expected, "{found:?} instead of {expected:?}");
    told_once(all)?;
    let sum = |pointer: &str| -> u64 {
        let echoes = all.iter().filter(|record| is_echo(record));
        echoes
            .filter_map(|record| number(record.ext(pointer)))
            .sum()
    };
    let told = [sum("/forward/packets"), sum("/reply/packets")];
    ensure!(told == echoes, "{told:?} echoes instead of {echoes:?}");
    // 14 bytes of Ethernet, 20 of IPv4, 8 of ICMP, 56 that ping sends by default.
    let bytes = sum("/forward/bytes");
    ensure!(bytes == echoes[0] * 98, "{bytes} bytes of echoes");
    Ok(())
}

/// All that was told, for whoever looks for what differs.
fn dump(agents: &[Agent]) -> Result<()> {
    for agent in agents {
        println!("=== agent {}", agent.pid());
        for record in records(agent)? {
            println!(
                "{} {} {} {:?} {} {} {}",
                record.ext("/connection"),
                record.event(),
                record.flow("/time"),
                record.tuple("/nat/original"),
                record.ext("/hops"),
                record.ext("/forward"),
                record.ext("/reply")
            );
        }
        println!("--- log");
        println!("{}", agent.log());
    }
    Ok(())
}

/// How many requests went out and how many answers came, by ping's own word.
pub fn transmitted(said: &str) -> Result<[u64; 2]> {
    let line = said.lines().find(|line| line.contains("transmitted"));
    let line = line.with_context(|| format!("ping said {said:?}"))?;
    let mut numbers = line.split(", ").map(|part| part.split(' ').next());
    let mut next =
        || -> Result<u64> { Ok(numbers.next().flatten().context("no number")?.parse()?) };
    Ok([next()?, next()?])
}

/// Each connection has one first record and no more than one last.
fn told_once(all: &[Record]) -> Result<()> {
    let mut events: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for record in all {
        let id = record.ext("/connection").to_string();
        *events.entry((id, record.event())).or_default() += 1;
    }
    for ((id, event), count) in &events {
        ensure!(
            *event == "update" || *count == 1,
            "{id}: {event} {count} times"
        );
    }
    Ok(())
}

#[test]
fn scenario_34_one_agent_after_another_misses_nothing() -> Result<()> {
    nothing_is_missed("s34pins", "auto")
}

#[test]
fn scenario_34_one_agent_after_another_misses_nothing_by_clsact() -> Result<()> {
    nothing_is_missed("s34filter", "clsact")
}

/// A pod that goes while no agent runs: its last packets are told by the next one.
#[test]
fn scenario_34_a_pod_that_went_meanwhile_is_told_of() -> Result<()> {
    let Some(lab) = lab("s34gone")? else {
        return Ok(());
    };
    let mut first = start(&lab, "auto", &[])?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let (to, veth) = (web2.ip().to_string(), web2.host_interface().to_owned());
    first.kill9()?;
    web.run(["ping", "-q", "-c", "5", "-i", "0.02", &to])?
        .success()?;
    lab.remove_pod("web2")?;
    let second = start(&lab, "auto", &[])?;
    let record = one(&second, "the echoes to the pod that went", |record| {
        is_echo(record) && record.event() == "close"
    })?;
    assert_eq!(number(record.ext("/forward/packets_total")), Some(5));
    assert_eq!(record.path(), [web.host_interface(), "cbr0", &veth]);
    Ok(())
}
