//! tcpdump as a witness: exact packets and bytes of an interface, each way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::netns::Netns;
use super::process::Proc;
use super::{Lab, wait_for};

/// How much of each frame is kept: headers, with room for options.
const SNAP_LENGTH: &str = "160";

/// How long tcpdump gets to start, to read what the kernel has for it, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A capture that runs: one tcpdump for each direction of an interface.
#[derive(Debug)]
pub struct Capture {
    ingress: Way,
    egress: Way,
}

#[derive(Debug)]
struct Way {
    process: Proc,
    file: PathBuf,
}

/// What was seen in one direction, as the interface's owner sees it: ingress is what the
/// interface received.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// Frames in order.
    pub frames: Vec<Frame>,
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its full length in bytes, Ethernet header included.
    pub length: usize,
    /// The beginning of it.
    pub bytes: Vec<u8>,
}

impl Captured {
    /// How many frames.
    pub fn packets(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Their lengths together, in bytes, Ethernet headers included.
    pub fn bytes(&self) -> u64 {
        self.frames.iter().map(|frame| frame.length as u64).sum()
    }

    /// Those frames for which `choose` holds.
    #[must_use]
    pub fn only(&self, choose: impl Fn(&Frame) -> bool) -> Self {
        let frames = self.frames.iter().filter(|frame| choose(frame));
        Self {
            frames: frames.cloned().collect(),
        }
    }
}

impl Lab {
    /// Captures on `interface` in `netns` what matches `filter` (pcap's language, empty for
    /// everything). When this returns, the next packet is captured.
    pub fn tcpdump(&self, netns: &Netns, interface: &str, filter: &str) -> Result<Capture> {
        let mut ingress = self.start_tcpdump(netns, interface, filter, "in")?;
        let mut egress = self.start_tcpdump(netns, interface, filter, "out")?;
        for way in [&mut ingress, &mut egress] {
            way.process.wait_output("listening on", PATIENCE)?;
        }
        Ok(Capture { ingress, egress })
    }

    fn start_tcpdump(
        &self,
        netns: &Netns,
        interface: &str,
        filter: &str,
        way: &str,
    ) -> Result<Way> {
        let file = self
            .log_base(&format!("{}-{interface}-{way}", netns.name()))
            .with_extension("pcap");
        let path = file.to_string_lossy().into_owned();
        // Not promiscuous: the interface must behave as if nobody looked.
        let mut argv = vec!["tcpdump", "-n", "-p", "--immediate-mode", "-U", "-Z", "root"];
        argv.extend(["-s", SNAP_LENGTH, "-i", interface, "-Q", way, "-w", &path]);
        if !filter.is_empty() {
            argv.push(filter);
        }
        Ok(Way {
            process: self.spawn(netns, argv)?,
            file,
        })
    }
}

impl Capture {
    /// Ends it: (ingress, egress). An error when the kernel dropped packets that tcpdump
    /// should have had.
    pub fn stop(self) -> Result<(Captured, Captured)> {
        Ok((self.ingress.stop()?, self.egress.stop()?))
    }
}

impl Way {
    fn stop(mut self) -> Result<Captured> {
        // tcpdump drops what it has not read when it is told to end; its statistics tell
        // when it has read everything.
        let mut said = 0;
        wait_for("tcpdump to read what was captured", PATIENCE, || {
            said += 1;
            let asked = self.process.signal(Signal::USR1).is_ok();
            let answered = wait_for("statistics", Duration::from_secs(1), || {
                statistics(&self.process.stderr()).len() >= said
            });
            let all = statistics(&self.process.stderr());
            said = all.len();
            let complete = all.last().is_some_and(|s| s.captured == s.received);
            asked && answered.is_ok() && complete
        })?;
        self.process.end_with(Signal::INT, PATIENCE)?;
        let all = statistics(&self.process.stderr());
        let last = all.last().context("tcpdump gave no statistics")?;
        ensure!(last.dropped == 0, "tcpdump lost {} packets", last.dropped);
        let captured = read_pcap(&self.file)?;
        ensure!(
            captured.packets() == last.captured,
            "tcpdump captured {} packets and wrote {}",
            last.captured,
            captured.packets()
        );
        Ok(captured)
    }
}

#[derive(Debug, Default, PartialEq)]
struct Statistics {
    captured: u64,
    received: u64,
    dropped: u64,
}

/// All statistics in tcpdump's messages: on SIGUSR1 in one line, at the end in three.
fn statistics(said: &str) -> Vec<Statistics> {
    let mut all = Vec::new();
    let mut current = Statistics::default();
    for part in said.split(['\n', ',']) {
        let part = part.trim().trim_start_matches("tcpdump: ");
        let number = || {
            part.split(' ')
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or_default()
        };
        if part.ends_with("captured") {
            current.captured = number();
        } else if part.ends_with("received by filter") {
            current.received = number();
        } else if part.ends_with("dropped by kernel") {
            current.dropped = number();
            all.push(std::mem::take(&mut current));
        }
    }
    all
}

/// Reads a capture file (pcap-savefile(5), Ethernet, in this machine's byte order).
fn read_pcap(path: &Path) -> Result<Captured> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const HEADER: usize = 24;
    const RECORD_HEADER: usize = 16;
    let data = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let word = |at: usize| -> Option<u32> {
        let bytes = data.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    ensure!(
        word(0) == Some(MAGIC),
        "{} is no capture file",
        path.display()
    );
    let mut frames = Vec::new();
    let mut at = HEADER;
    while at < data.len() {
        let (Some(kept), Some(length)) = (word(at + 8), word(at + 12)) else {
            bail!("{} ends inside a record", path.display());
        };
        let start = at + RECORD_HEADER;
        let Some(bytes) = data.get(start..start + kept as usize) else {
            bail!("{} ends inside a frame", path.display());
        };
        frames.push(Frame {
            length: length as usize,
            bytes: bytes.to_vec(),
        });
        at = start + kept as usize;
    }
    Ok(Captured { frames })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_in_both_forms() {
        let said = "tcpdump: listening on eth0, link-type EN10MB\n\
                    tcpdump: 5 packets captured, 7 packets received by filter, 0 packets dropped by kernel\n\
                    7 packets captured\n7 packets received by filter\n1 packet dropped by kernel\n";
        let all = statistics(said);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].captured, all[0].received), (5, 7));
        assert_eq!((all[1].captured, all[1].dropped), (7, 1));
    }
}
