//! Reads the flow logs as they are written: what the records add up to, and how late a new
//! connection is told.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::report::{Story, Track};
use crate::identity::Counted;
use crate::lab::{Lab, Netns};
use crate::records::{Record, Sums};

/// Between two looks at a log: what a lag is exact to.
const LOOK: Duration = Duration::from_millis(20);
/// Between two connections whose first record is waited for.
const PROBE: Duration = Duration::from_secs(1);
/// Records looked into between two looks.
const AT_ONCE: usize = 10;
/// Where pods answer datagrams.
const ECHO: u16 = 9000;

/// What the records of a node told so far.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// What they add up to.
    pub sums: Counted,
    /// How many there were.
    pub records: u64,
    /// Connections whose portions did not add up.
    pub again: Vec<String>,
    /// Lines that are no records.
    pub broken: Vec<String>,
}

/// Follows the logs of the agents of a node, one after another.
pub struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    resting: AtomicBool,
    over: AtomicBool,
}

#[derive(Default)]
struct State {
    logs: Vec<Log>,
    /// Lines that were read and not looked into yet.
    backlog: VecDeque<Vec<u8>>,
    sums: Sums,
    records: u64,
    again: Vec<String>,
    broken: Vec<String>,
    /// Source ports of connections that no record told of yet, and when they began.
    waiting: Vec<(u16, Instant)>,
}

/// A log and how much of it was read.
struct Log {
    path: PathBuf,
    at: u64,
    /// The beginning of a line that is not whole yet.
    rest: Vec<u8>,
}

impl Follower {
    /// Begins without a log. Connections to wait for go from the node's first pod to one that
    /// answers.
    pub fn start(
        lab: &Lab,
        index: usize,
        story: &Arc<Story>,
        track: Arc<Mutex<Track>>,
    ) -> Result<Self> {
        let pods = lab.pods();
        let from = pods.iter().find(|pod| pod.node() == index);
        let from = from.context("a node without pods")?;
        let to = pods
            .iter()
            .find(|pod| ["web", "web2"].contains(&pod.short()) && pod.ip() != from.ip());
        let to = to.context("no pod that answers")?.ip();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            resting: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let (own, story, netns) = (Arc::clone(&shared), Arc::clone(story), from.netns());
        let thread = thread::spawn(move || own.follow(&netns, to, &story, &track));
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The log of the agent that runs now. That of the one before is read to its end.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let mut state = self.shared.lock();
        state.read()?;
        for old in state.logs.drain(..) {
            fs::remove_file(&old.path).with_context(|| old.path.display().to_string())?;
        }
        state.logs.push(Log {
            path: path.to_owned(),
            at: 0,
            rest: Vec::new(),
        });
        Ok(())
    }

    /// Whether new connections are made to see how late they are told.
    pub fn probe(&self, whether: bool) {
        self.shared.resting.store(!whether, Ordering::Release);
    }

    /// What was told until now.
    pub fn followed(&self) -> Followed {
        let mut state = self.shared.lock();
        if let Err(error) = state.read() {
            state.broken.push(format!("{error:#}"));
        }
        state.work(usize::MAX);
        Followed {
            sums: state.sums.counted(),
            records: state.records,
            again: state.again.clone(),
            broken: state.broken.clone(),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, netns: &Netns, to: Ipv4Addr, story: &Story, track: &Mutex<Track>) {
        let mut next = Instant::now();
        while !self.over.load(Ordering::Acquire) {
            let mut state = self.lock();
            if Instant::now() >= next && !self.resting.load(Ordering::Acquire) {
                next = Instant::now() + PROBE;
                match probe(netns, to) {
                    Ok(port) => state.waiting.push((port, Instant::now())),
                    Err(error) => state.broken.push(format!("a probe: {error:#}")),
                }
            }
            if let Err(error) = state.read() {
                state.broken.push(format!("{error:#}"));
            }
            let told = std::mem::take(&mut state.waiting).into_iter();
            let (waiting, told): (Vec<_>, Vec<_>) = told.partition(|(port, _)| *port != 0);
            state.waiting = waiting;
            state.work(AT_ONCE);
            let busy = !state.backlog.is_empty();
            drop(state);
            let mut track = track.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, since) in told {
                track.lag(story.at(since), since.elapsed());
            }
            drop(track);
            if !busy {
                thread::sleep(LOOK);
            }
        }
    }
}

/// One datagram of a connection of its own; its source port.
fn probe(netns: &Netns, to: Ipv4Addr) -> Result<u16> {
    let port = netns.enter(|| -> Result<u16> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(b"lag", (to, ECHO))?;
        Ok(socket.local_addr()?.port())
    })??;
    Ok(port)
}

impl State {
    /// Reads what is new. A record of a connection that is waited for makes its port 0: what is
    /// told is seen at once, however much there is to look into.
    fn read(&mut self) -> Result<()> {
        for log in &mut self.logs {
            for line in log.lines()? {
                for (port, _) in &mut self.waiting {
                    let source = format!("{{\"UDP\":{{\"source_port\":{port},");
                    if *port != 0 && String::from_utf8_lossy(&line).contains(&source) {
                        *port = 0;
                    }
                }
                self.backlog.push_back(line);
            }
        }
        Ok(())
    }

    /// Looks into so many lines.
    fn work(&mut self, lines: usize) {
        let lines = lines.min(self.backlog.len());
        let lines: Vec<_> = self.backlog.drain(..lines).collect();
        lines.iter().for_each(|line| self.take(line));
    }

    fn take(&mut self, line: &[u8]) {
        let record: Value = match serde_json::from_slice(line) {
            Ok(record) => record,
            Err(error) => {
                let line = String::from_utf8_lossy(line);
                return self.broken.push(format!("{error}: {line}"));
            }
        };
        let record = Record(record);
        self.records += 1;
        if record.event() == "drop" {
            return;
        }
        if let Err(error) = self.sums.add(&record) {
            self.again.push(format!("{error:#}"));
        }
    }
}

impl Log {
    /// Whole lines that came since the last look.
    fn lines(&mut self) -> Result<Vec<Vec<u8>>> {
        let Ok(mut file) = File::open(&self.path) else {
            // The agent has not made it yet.
            return Ok(Vec::new());
        };
        file.seek(SeekFrom::Start(self.at))?;
        self.at += file.read_to_end(&mut self.rest)? as u64;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        let lines = whole[..end].split(|byte| *byte == b'\n');
        Ok(lines.map(<[u8]>::to_vec).collect())
    }
}
