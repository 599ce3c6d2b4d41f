//! tcpdump as a witness: exact packets and bytes of interfaces, each way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::netns::Netns;
use super::process::Proc;
use super::{Lab, wait_for};

/// How much of each packet is kept: headers, with room for options.
const SNAP_LENGTH: &str = "192";

/// The kernel's buffer for what tcpdump has not read yet, in KiB.
const BUFFER: &str = "32768";

/// A packet on the loopback is captured once and received twice (libpcap drops the outgoing copy
/// after the kernel has counted it): with it the two numbers would never agree. The loopback is
/// the first interface of every namespace.
const NOT_LOOPBACK: &str = "not ifindex 1";

/// How long tcpdump gets to start, to read what the kernel has for it, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The Ethernet header's length, which the capture leaves out of a frame's.
const ETHERNET: usize = 14;

/// A capture that runs, of all interfaces of a namespace.
#[derive(Debug)]
pub struct Capture {
    process: Proc,
    netns: Netns,
    file: PathBuf,
    filter: String,
    interfaces: BTreeMap<u32, String>,
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
    /// The hardware address that it came from.
    pub source: [u8; 6],
    /// Its Ethernet type.
    pub ethertype: u16,
    /// The beginning of what follows the Ethernet header.
    pub payload: Vec<u8>,
}

/// Both directions of one interface: ingress, egress.
pub type BothWays = (Captured, Captured);

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
    /// Captures on all interfaces of `netns` what matches `filter` (pcap's language, empty
    /// for everything). When this returns, the next packet is captured.
    ///
    /// The filter is applied at the end: so every packet that the kernel had for tcpdump is
    /// accounted for, and the counts are exact or an error.
    pub fn tcpdump(&self, netns: &Netns, filter: &str) -> Result<Capture> {
        let file = self
            .log_base(&format!("{}-tcpdump", netns.name()))
            .with_extension("pcap");
        let path = file.to_string_lossy().into_owned();
        // The pseudo-interface carries each packet's direction; and it is not promiscuous:
        // interfaces behave as if nobody looked.
        let mut argv = vec!["tcpdump", "-n", "-i", "any", "-y", "LINUX_SLL2", "-p"];
        argv.extend(["--immediate-mode", "-U", "-Z", "root"]);
        argv.extend(["-B", BUFFER, "-s", SNAP_LENGTH, "-w", &path]);
        argv.push(NOT_LOOPBACK);
        let mut process = self.spawn(netns, argv)?;
        process.wait_output("listening on", PATIENCE)?;
        Ok(Capture {
            process,
            netns: netns.clone(),
            file,
            filter: filter.to_owned(),
            interfaces: interfaces(netns)?,
        })
    }
}

impl Capture {
    /// Ends it: what `interface` received and sent.
    pub fn stop(self, interface: &str) -> Result<BothWays> {
        let mut all = self.stop_all()?;
        Ok(all.remove(interface).unwrap_or_default())
    }

    /// Ends it: what each interface that saw a packet received and sent. An error when the
    /// kernel dropped packets that tcpdump should have had.
    pub fn stop_all(mut self) -> Result<BTreeMap<String, BothWays>> {
        self.wait_complete()?;
        self.process.end_with(Signal::INT, PATIENCE)?;
        let all = statistics(&self.process.stderr());
        let last = all.last().context("tcpdump gave no statistics")?;
        ensure!(last.dropped == 0, "tcpdump lost {} packets", last.dropped);
        let whole = read_pcap(&self.file)?;
        ensure!(
            whole.len() as u64 == last.captured,
            "tcpdump captured {} packets and wrote {}",
            last.captured,
            whole.len()
        );
        let chosen = match self.filter.is_empty() {
            true => whole,
            false => self.filtered()?,
        };
        // Interfaces that came in the meantime; those that went are known from the start.
        self.interfaces.extend(interfaces(&self.netns)?);
        let mut result: BTreeMap<String, BothWays> = BTreeMap::new();
        for packet in chosen {
            let name = self.interfaces.get(&packet.interface).cloned();
            let (ingress, egress) = result
                .entry(name.unwrap_or_else(|| format!("if{}", packet.interface)))
                .or_default();
            let way = if packet.outgoing { egress } else { ingress };
            way.frames.push(packet.frame);
        }
        Ok(result)
    }

    /// Waits until tcpdump has read everything that the kernel had for it when this began: it
    /// drops the rest when it is told to end. What comes later (a chatty API server on the
    /// loopback, for example) is none of the caller's.
    fn wait_complete(&mut self) -> Result<()> {
        let mut said = 0;
        let mut goal = None;
        wait_for("tcpdump to read what was captured", PATIENCE, || {
            let asked = self.process.signal(Signal::USR1).is_ok();
            let answered = wait_for("statistics", Duration::from_secs(1), || {
                statistics(&self.process.stderr()).len() > said
            });
            let all = statistics(&self.process.stderr());
            said = all.len();
            if !(asked && answered.is_ok()) {
                return false;
            }
            all.last().is_some_and(|now| {
                let goal = *goal.get_or_insert(now.received);
                now.captured >= goal
            })
        })
    }

    /// Has tcpdump read its file again, with the filter.
    fn filtered(&self) -> Result<Vec<Packet>> {
        let (from, to) = (&self.file, self.file.with_extension("filtered"));
        let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
        let argv = ["tcpdump", "-n", "-r", &from, "-w", &to, &self.filter];
        self.netns.run(argv)?.success()?;
        read_pcap(Path::new(to.as_ref()))
    }
}

/// Names of the interfaces of `netns` by index.
fn interfaces(netns: &Netns) -> Result<BTreeMap<u32, String>> {
    let links = netns.ip_json(&["link", "show"])?;
    let links = links.as_array().context("ip link gave no list")?;
    let named = links.iter().filter_map(|link| {
        let index = u32::try_from(link["ifindex"].as_u64()?).ok()?;
        Some((index, link["ifname"].as_str()?.to_owned()))
    });
    Ok(named.collect())
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

/// A packet in the capture file.
struct Packet {
    interface: u32,
    outgoing: bool,
    frame: Frame,
}

/// Reads a capture file: pcap-savefile(5) in this machine's byte order, LINUX_SLL2 packets
/// (tcpdump.org, "LINKTYPE_LINUX_SLL2").
fn read_pcap(path: &Path) -> Result<Vec<Packet>> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const HEADER: usize = 24;
    const RECORD_HEADER: usize = 16;
    let data = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let word = |at: usize| -> Option<u32> {
        let bytes = data.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    if word(0) != Some(MAGIC) {
        bail!("{} is no capture file", path.display());
    }
    let mut packets = Vec::new();
    let mut at = HEADER;
    while at < data.len() {
        let record = || -> Option<(usize, Packet)> {
            let (kept, length) = (word(at + 8)? as usize, word(at + 12)? as usize);
            let start = at + RECORD_HEADER;
            Some((
                start + kept,
                cooked(data.get(start..start + kept)?, length)?,
            ))
        };
        let Some((next, packet)) = record() else {
            bail!("{} ends inside a packet", path.display());
        };
        packets.push(packet);
        at = next;
    }
    Ok(packets)
}

/// A packet behind its LINUX_SLL2 header; `length` is the full one with that header.
fn cooked(bytes: &[u8], length: usize) -> Option<Packet> {
    const HEADER: usize = 20;
    /// `PACKET_OUTGOING` (linux/if_packet.h).
    const OUTGOING: u8 = 4;
    let (header, payload) = bytes.split_at_checked(HEADER)?;
    Some(Packet {
        interface: u32::from_be_bytes(header[4..8].try_into().ok()?),
        outgoing: header[10] == OUTGOING,
        frame: Frame {
            length: length.checked_sub(HEADER)? + ETHERNET,
            source: header[12..18].try_into().ok()?,
            ethertype: u16::from_be_bytes(header[0..2].try_into().ok()?),
            payload: payload.to_vec(),
        },
    })
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
