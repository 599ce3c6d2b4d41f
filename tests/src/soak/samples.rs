//! What an agent takes, second by second.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::report::{Story, Track};
use crate::identity::sample;
use crate::lab::Netns;

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(1);
/// Processor time is told in this unit (`USER_HZ`, 100 on every Linux): ticks a second.
const TICKS: f64 = 100.0;

/// One moment of an agent.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Seconds since the beginning.
    pub at: f64,
    /// Resident memory, in MiB.
    pub rss_mib: f64,
    /// Processor time since the sample before, in percent of a core.
    pub cpu_percent: f64,
    /// Open file descriptors.
    pub fds: usize,
    /// Records in the kernel's table; none when the agent did not answer.
    pub entries: Option<f64>,
    /// Series on its metrics page.
    pub series: Option<usize>,
}

/// Takes samples of whichever agent runs on a node.
pub struct Sampler {
    shared: Arc<Shared>,
    track: Arc<Mutex<Track>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    pid: AtomicU32,
    over: AtomicBool,
}

impl Sampler {
    /// Begins with the process `pid`.
    pub fn start(
        pid: u32,
        node: Netns,
        story: &Arc<Story>,
        track: Arc<Mutex<Track>>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            pid: AtomicU32::new(pid),
            over: AtomicBool::new(false),
        });
        let (own, story, into) = (Arc::clone(&shared), Arc::clone(story), Arc::clone(&track));
        let thread = thread::Builder::new()
            .name("samples".to_owned())
            .spawn(move || own.sample(&node, &story, &into))?;
        Ok(Self {
            shared,
            track,
            thread: Some(thread),
        })
    }

    /// Goes on with another process.
    pub fn follow(&self, pid: u32) {
        self.shared.pid.store(pid, Ordering::Release);
    }

    /// Takes no more.
    pub fn end(mut self) -> Arc<Mutex<Track>> {
        self.shared.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
        Arc::clone(&self.track)
    }
}

impl Shared {
    fn sample(&self, node: &Netns, story: &Story, track: &Mutex<Track>) {
        let mut before: Option<(u32, f64, Instant)> = None;
        while !self.over.load(Ordering::Acquire) {
            let pid = self.pid.load(Ordering::Acquire);
            // No process, no sample: one agent has ended, the next has not begun.
            if let (Ok(ticks), Ok((rss_mib, fds))) = (ticks(pid), takes(pid)) {
                let now = Instant::now();
                let cpu_percent = match before {
                    Some((then, old, since)) if then == pid => {
                        (ticks - old) / TICKS / since.elapsed().as_secs_f64() * 100.0
                    }
                    _ => 0.0,
                };
                before = Some((pid, ticks, now));
                let page = page(node).ok();
                let entries = page.as_deref().and_then(|page| {
                    sample(page, "nodescope_flow_table_entries", &[])
                        .ok()
                        .flatten()
                });
                let series =
                    page.map(|page| page.lines().filter(|line| !line.starts_with('#')).count());
                let at = story.at(now);
                let mut track = track.lock().unwrap_or_else(PoisonError::into_inner);
                track.samples.push(Sample {
                    at,
                    rss_mib,
                    cpu_percent,
                    fds,
                    entries,
                    series,
                });
            }
            thread::sleep(PERIOD);
        }
    }
}

fn page(node: &Netns) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9817));
    let (status, body) = node.http(address, "/metrics")?;
    anyhow::ensure!(status == 200, "/metrics answered {status}");
    Ok(body)
}

/// User and system time of a process (`/proc/PID/stat`, fields 14 and 15).
fn ticks(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')').context("no name")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || -> Result<f64> { Ok(fields.next().context("too short")?.parse()?) };
    Ok(next()? + next()?)
}

/// Resident memory in MiB, and open files.
pub fn takes(pid: u32) -> Result<(f64, usize)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.context("a process that has no memory any more")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok((kib / 1024.0, fds))
}
