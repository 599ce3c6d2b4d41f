//! TCP throughput and UDP packet rate across a node, with the agent against without: from a pod
//! through its veth, the bridge and the uplink to a machine outside the cluster, masqueraded.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nodescope_tests::lab::{Lab, Netns};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

use crate::agent::{self, Agent};
use crate::figure::{Figure, Goal, Report};
use crate::stop::Stop;

/// How long each measurement lasts, after some time to get going.
const LENGTH: Duration = Duration::from_millis(1500);
const WARM_UP: Duration = Duration::from_millis(300);
/// A port on the machine outside that nothing else has.
const PORT: u16 = 20_001;
/// What a UDP frame of 64 bytes carries.
const PAYLOAD: usize = 64 - 14 - 20 - 8;
/// Datagrams handed to the kernel at once.
const BATCH: usize = 64;

/// Measures both.
///
/// # Errors
/// The lab or the agent does not start, or the user wants an end.
pub fn measure(rounds: u32, stop: &Stop, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("traffic across a node, with the agent and without");
    let lab = agent::lab()?;
    let (mut tcp, mut udp) = (Rates::default(), Rates::default());
    for round in 0..rounds {
        // What comes first changes, so that a drift of the machine favours neither.
        let order = [round % 2 == 0, round % 2 == 1];
        for with in order {
            stop.check()?;
            let agent = with.then(|| Agent::start(&lab, &[])).transpose()?;
            tcp.of(with).push(throughput(&lab)?);
            stop.check()?;
            udp.of(with).push(packet_rate(&lab)?);
            agent.map(Agent::stop).transpose()?;
        }
    }
    let goal = Goal::AtLeast(0.97);
    report.add(Figure::new("tcp_throughput_ratio", "ratio", tcp.ratios()).goal(goal));
    let goal = Goal::AtLeast(0.93);
    report.add(Figure::new("udp_rate_ratio", "ratio", udp.ratios()).goal(goal));
    report.add(Figure::new("tcp_gbit_per_s_without", "Gbit/s", tcp.without));
    report.add(Figure::new("tcp_gbit_per_s_with", "Gbit/s", tcp.with).unprinted());
    report.add(Figure::new("udp_kpps_without", "kpps", udp.without));
    report.add(Figure::new("udp_kpps_with", "kpps", udp.with).unprinted());
    Ok(())
}

#[derive(Default)]
struct Rates {
    with: Vec<f64>,
    without: Vec<f64>,
}

impl Rates {
    fn of(&mut self, with: bool) -> &mut Vec<f64> {
        if with {
            &mut self.with
        } else {
            &mut self.without
        }
    }

    fn ratios(&self) -> Vec<f64> {
        let pairs = self.with.iter().zip(&self.without);
        pairs.map(|(with, without)| with / without).collect()
    }
}

/// Gigabits a second that one TCP connection carries.
fn throughput(lab: &Lab) -> anyhow::Result<f64> {
    let far = SocketAddr::from((lab.topology().vm.ip(), PORT));
    let listener = lab
        .vm()
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    let sender = lab
        .pod("web")?
        .netns()
        .enter(|| TcpStream::connect(far))??;
    let (receiver, _) = listener.accept()?;
    let (received, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let rate = thread::scope(|scope| {
        scope.spawn(|| {
            let mut sender = &sender;
            let block = vec![0; 256 << 10];
            while !over.load(Ordering::Relaxed) {
                if sender.write_all(&block).is_err() {
                    break;
                }
            }
            // The reader ends at the end of the stream.
            let _ = sender.shutdown(std::net::Shutdown::Both);
        });
        scope.spawn(|| {
            let mut receiver = &receiver;
            let mut block = vec![0; 256 << 10];
            while let Ok(bytes @ 1..) = receiver.read(&mut block) {
                received.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        });
        let rate = rate(|| Ok(received.load(Ordering::Relaxed)));
        over.store(true, Ordering::Relaxed);
        rate
    })?;
    Ok(rate * 8.0 / 1e9)
}

/// Thousands of frames of 64 bytes a second that reach the far machine.
fn packet_rate(lab: &Lab) -> anyhow::Result<f64> {
    let far = SocketAddr::from((lab.topology().vm.ip(), PORT));
    // Somebody reads: what finds no room in a socket is a drop, whose cost is another one.
    let sink = lab
        .vm()
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    let sender = lab.pod("web")?.netns().enter(|| -> std::io::Result<_> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(far)?;
        Ok(socket)
    })??;
    let over = AtomicBool::new(false);
    let vm = lab.vm();
    let rate = thread::scope(|scope| {
        scope.spawn(|| receive(&sink, &over));
        scope.spawn(|| send(&sender, &over));
        let rate = rate(|| arrived(&vm));
        over.store(true, Ordering::Relaxed);
        rate
    })?;
    Ok(rate / 1000.0)
}

fn receive(socket: &UdpSocket, over: &AtomicBool) {
    let mut buffer = [0; PAYLOAD];
    // So that it sees the end.
    let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
    while !over.load(Ordering::Relaxed) {
        let _ = socket.recv(&mut buffer);
    }
}

fn send(socket: &UdpSocket, over: &AtomicBool) {
    let payload = [0; PAYLOAD];
    let parts = [std::io::IoSlice::new(&payload)];
    let mut controls: Vec<_> = (0..BATCH).map(|_| SendAncillaryBuffer::default()).collect();
    let mut batch: Vec<_> = controls
        .iter_mut()
        .map(|control| MMsgHdr::new(&parts, control))
        .collect();
    while !over.load(Ordering::Relaxed) {
        // A full queue is not the sender's concern: what arrives is counted.
        let _ = sendmmsg(socket, &mut batch, SendFlags::empty());
    }
}

/// Packets that a machine's only interface has received.
fn arrived(netns: &Netns) -> anyhow::Result<u64> {
    let text = netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let counts = text.lines().filter_map(|line| line.split_once(':'));
    let of = counts.filter(|(name, _)| name.trim() != "lo");
    let packets =
        of.filter_map(|(_, counts)| counts.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(packets.sum())
}

/// Growth a second of a count.
fn rate(count: impl Fn() -> anyhow::Result<u64>) -> anyhow::Result<f64> {
    thread::sleep(WARM_UP);
    let (before, start) = (count()?, Instant::now());
    thread::sleep(LENGTH);
    let more = count()?.checked_sub(before).context("a count that fell")?;
    Ok(more as f64 / start.elapsed().as_secs_f64())
}
