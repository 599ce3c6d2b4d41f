//! What differs between kernels: the verifier's verdict, translations, records taken out. These
//! run here, and by `cargo xtask kernels` on other kernels.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodescope::datapath::{Datapath, Method, Settings, Side};
use nodescope::flow::ip;
use nodescope::node::conntrack::{self, Change};
use nodescope_ebpf::{NatRecord, NatState, NatTuple};
use nodescope_tests::lab::Netns;

/// Instructions that the verifier may look at for one program. The kernel's own limit is a
/// million; what it costs is time at each start of the agent.
const BUDGET: u32 = 60_000;

/// How long anything may take: far more than it does.
const PATIENCE: Duration = Duration::from_secs(30);

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root for network namespaces and eBPF");
    }
    root
}

/// The kernel side, loaded once for all tests: under emulation the verifier takes long.
fn loaded() -> Result<MutexGuard<'static, Datapath>> {
    static LOADED: OnceLock<Mutex<Datapath>> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());
    let _one = LOADING.lock();
    if LOADED.get().is_none() {
        let datapath = Datapath::load(&Settings {
            max_connections: 1024,
            nat: true,
            dns_questions: false,
            method: None,
            pinning: None,
        })?;
        let _ = LOADED.set(Mutex::new(datapath));
    }
    let datapath = LOADED.get().context("not loaded")?;
    Ok(datapath
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Namespaces that go with the value.
struct Namespaces(Vec<Netns>);

impl Namespaces {
    fn new(name: &str, count: usize) -> Result<Self> {
        let all = (0..count)
            .map(|index| Netns::named(format!("ns-labk{name}{}-{index}", std::process::id())));
        let made = Self(all.collect());
        for netns in &made.0 {
            run("ip", &["netns", "add", netns.name()])?;
        }
        Ok(made)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for netns in &self.0 {
            let _ = run("ip", &["netns", "del", netns.name()]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let out = std::process::Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        out.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// A wire: `near` in one namespace, `far` in the other, with addresses and known neighbours.
fn wire(near: (&Netns, &str, &str), far: (&Netns, &str, &str)) -> Result<()> {
    let ((here, name, address), (there, peer, other)) = (near, far);
    here.ip(&[format!(
        "link add {name} type veth peer name {peer} netns {}",
        there.name()
    )])?;
    for (netns, link, own) in [(here, name, address), (there, peer, other)] {
        netns.ip(&lines(&format!(
            "addr add {own}/24 dev {link}
             link set {link} addrgenmode none
             link set {link} up"
        )))?;
    }
    Ok(())
}

fn index(netns: &Netns, name: &str) -> Result<u32> {
    let line = netns.enter(|| run("ip", &["-o", "link", "show", "dev", name]))??;
    Ok(line.split(':').next().unwrap_or_default().parse()?)
}

fn attach(datapath: &mut Datapath, netns: &Netns, name: &str, side: Side) -> Result<()> {
    let index = index(netns, name)?;
    netns.enter(|| {
        // An index of another test's namespace may be the same.
        datapath.detach(index);
        datapath.attach(index, name, side)
    })??;
    Ok(())
}

/// Every program is accepted, with no more work for the verifier than allowed.
#[test]
fn programs_stay_within_their_budget() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let datapath = loaded()?;
    println!("attachment: {}", Method::of_this_kernel().name());
    let programs = datapath.programs();
    ensure!(!programs.is_empty(), "no program is loaded");
    for program in programs {
        match program.instructions {
            Some(number) => {
                println!("verified: {} {number}", program.name);
                assert!(number <= BUDGET, "{}: {number} > {BUDGET}", program.name);
            }
            None => println!("verified: {} untold", program.name),
        }
    }
    Ok(())
}

/// One side of an entry as conntrack writes it.
fn tuple(tuple: &NatTuple) -> String {
    format!(
        "src={} dst={} sport={} dport={}",
        ip(&tuple.source),
        ip(&tuple.destination),
        tuple.source_port,
        tuple.destination_port
    )
}

fn entry(record: &NatRecord) -> String {
    format!("{} {}", tuple(&record.original), tuple(&record.reply))
}

/// Entries of a namespace by conntrack's own word.
fn table(netns: &Netns) -> Result<BTreeSet<String>> {
    let text = netns.enter(|| run("conntrack", &["-L", "-p", "udp"]))??;
    let tuple = |word: &&str| {
        ["src=", "dst=", "sport=", "dport="]
            .iter()
            .any(|key| word.starts_with(key))
    };
    let words = |line: &str| {
        line.split_whitespace()
            .filter(tuple)
            .collect::<Vec<_>>()
            .join(" ")
    };
    Ok(text
        .lines()
        .map(words)
        .filter(|line| !line.is_empty())
        .collect())
}

/// A node that masquerades what two pods send to a server outside.
struct Masqueraded {
    namespaces: Namespaces,
    server: UdpSocket,
}

impl Masqueraded {
    fn new(name: &str) -> Result<Self> {
        let namespaces = Namespaces::new(name, 4)?;
        let [node, outside, pods @ ..] = &namespaces.0[..] else {
            unreachable!()
        };
        wire((node, "up0", "10.224.0.4"), (outside, "eth0", "10.224.0.9"))?;
        for (number, pod) in (1..).zip(pods) {
            let gateway = format!("10.244.{number}.1");
            let own = format!("10.244.{number}.2");
            wire(
                (node, &format!("pod{number}"), &gateway),
                (pod, "eth0", &own),
            )?;
            pod.ip(&[format!("route add default via {gateway}")])?;
        }
        node.sysctls(&[("net.ipv4.ip_forward", "1")])?;
        let rule = "-t nat -A POSTROUTING -o up0 -j MASQUERADE";
        node.enter(|| run("iptables", &rule.split(' ').collect::<Vec<_>>()))??;
        let server = outside.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7000)))??;
        server.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { namespaces, server })
    }

    fn node(&self) -> &Netns {
        &self.namespaces.0[0]
    }

    /// One of the pods, 0 or 1, sends from a port that both use; what the server sees of it.
    fn send(&self, pod: usize) -> Result<SocketAddr> {
        let netns = &self.namespaces.0[2 + pod];
        let client = netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 45_000)))??;
        let mut peer = None;
        for _ in 0..3 {
            client.send_to(b"hello", SocketAddr::from(([10, 224, 0, 9], 7000)))?;
            peer = Some(self.server.recv_from(&mut [0; 16])?.1);
        }
        peer.context("nothing was sent")
    }
}

/// Two pods behind a masquerading node send from the same port to the same server: one of them
/// gets another port, and both keep their own translation.
#[test]
fn translations_are_what_conntrack_has() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut datapath = loaded()?;
    if let Some(why) = datapath.nat_off() {
        println!("skipped: {why}");
        return Ok(());
    }
    let lab = Masqueraded::new("nat")?;
    attach(&mut datapath, lab.node(), "pod1", Side::Port)?;
    attach(&mut datapath, lab.node(), "pod2", Side::Port)?;
    attach(&mut datapath, lab.node(), "up0", Side::Host)?;
    let peers = BTreeSet::from([lab.send(0)?, lab.send(1)?]);
    assert_eq!(peers.len(), 2, "no collision was resolved: {peers:?}");

    let uplink = index(lab.node(), "up0")?;
    let mut translated = Vec::new();
    datapath.for_each(|key, record| {
        if key.ifindex == uplink && NatState::of(record.nat) == NatState::Translated {
            translated.push(*key);
        }
    })?;
    let records: Vec<NatRecord> = translated
        .iter()
        .filter_map(|key| datapath.nat(key))
        .collect();
    agree(&records, lab.node(), &peers)
}

/// Whether records say what conntrack says and the server sees.
fn agree(records: &[NatRecord], node: &Netns, peers: &BTreeSet<SocketAddr>) -> Result<()> {
    let seen: BTreeSet<String> = records.iter().map(entry).collect();
    assert_eq!(seen, table(node)?);
    let far = records.iter().map(|record| {
        SocketAddr::new(ip(&record.reply.destination), record.reply.destination_port)
    });
    assert_eq!(far.collect::<BTreeSet<_>>(), *peers);
    Ok(())
}

/// The same by netlink: of two such connections, one is there before, one comes later.
#[test]
fn translations_come_by_netlink() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let lab = Masqueraded::new("nl")?;
    let mut peers = BTreeSet::from([lab.send(0)?]);
    let records = lab.node().enter(|| -> Result<Vec<NatRecord>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut followed = conntrack::conntrack()?;
            let (mut known, mut new) = (Vec::new(), Vec::new());
            let mut sent = false;
            while known.is_empty() || new.is_empty() {
                let changes = tokio::time::timeout(PATIENCE, followed.next()).await?;
                for change in changes.context("the events ended")? {
                    match change {
                        Change::Known(entry) => known.push(entry.nat),
                        Change::New(entry) => new.push(entry.nat),
                        _ => {}
                    }
                }
                if !known.is_empty() && !sent {
                    peers.insert(lab.send(1)?);
                    sent = true;
                }
            }
            Ok([known, new].concat())
        })
    })??;
    assert_eq!(peers.len(), 2, "no collision was resolved: {peers:?}");
    agree(&records, lab.node(), &peers)
}

/// Datagrams to a port where nobody listens, on loopback: each is told, with the reason where the
/// kernel has one.
#[test]
fn dropped_packets_are_counted() -> Result<()> {
    const PACKETS: u64 = 7;
    const PAYLOAD: &[u8] = b"nobody";
    /// What an Ethernet interface counts of a datagram: its header, and those of IPv4 and UDP.
    const HEADERS: u64 = 14 + 20 + 8;
    if !is_root() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let mut drops = match loaded()?.drops() {
        Ok(drops) => drops,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let any = (Ipv4Addr::LOCALHOST, 0);
    let closed = UdpSocket::bind(any)?.local_addr()?;
    let sender = UdpSocket::bind(any)?;
    for _ in 0..PACKETS {
        sender.send_to(PAYLOAD, closed)?;
    }
    let start = std::time::Instant::now();
    let (mut packets, mut bytes) = (0, 0);
    while packets < PACKETS && start.elapsed() < PATIENCE {
        for lost in drops.drain(false, 0)? {
            if lost.key.destination_port == closed.port() {
                if drops.has_reasons() {
                    assert_eq!(drops.reason(lost.key.reason), "NO_SOCKET");
                }
                packets += lost.packets;
                bytes += lost.bytes;
            }
        }
    }
    assert_eq!(
        (packets, bytes),
        (PACKETS, PACKETS * (HEADERS + PAYLOAD.len() as u64))
    );
    Ok(())
}

/// Keeps the calling thread on one CPU, so that it and another one there cannot run at once.
fn stay_on_first_cpu() -> Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let first = (0..rustix::thread::CpuSet::MAX_CPU)
        .find(|cpu| allowed.is_set(*cpu))
        .context("no CPU is allowed")?;
    let mut one = rustix::thread::CpuSet::new();
    one.set(first);
    rustix::thread::sched_setaffinity(None, &one)?;
    Ok(())
}

/// A record is taken out again and again while its packets pass: each is in exactly one of the
/// records.
#[test]
fn records_are_taken_out_without_loss() -> Result<()> {
    const PACKETS: u64 = 2000;
    if !is_root() {
        return Ok(());
    }
    let namespaces = Namespaces::new("take", 2)?;
    let [here, there] = &namespaces.0[..] else {
        unreachable!()
    };
    wire((here, "near", "10.244.0.1"), (there, "far", "10.244.0.2"))?;
    let mut datapath = loaded()?;
    attach(&mut datapath, here, "near", Side::Port)?;
    let client = here.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 6000)))??;
    let to = SocketAddr::from(([10, 244, 0, 2], 7000));
    // Somebody listens, so that no error comes back.
    let _server = there.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7000)))??;
    client.send_to(b"first", to)?;
    let mut key = None;
    while key.is_none() {
        datapath.for_each(|one, _| {
            key = (one.protocol == 17 && one.b_port.max(one.a_port) == 7000)
                .then_some(*one)
                .or(key)
        })?;
    }
    let key = key.context("no record")?;

    let datapath: &mut Datapath = &mut datapath;
    let over = AtomicBool::new(false);
    let (packets, taken) = thread::scope(|scope| -> Result<(u64, u64)> {
        let sender = scope.spawn(|| -> Result<()> {
            let outcome = stay_on_first_cpu().and_then(|()| {
                for _ in 1..PACKETS {
                    client.send_to(b"next", to)?;
                }
                Ok(())
            });
            over.store(true, Ordering::Release);
            outcome
        });
        let taker = scope.spawn(|| -> Result<(u64, u64)> {
            stay_on_first_cpu()?;
            let (mut packets, mut taken) = (0, 0);
            loop {
                let last = over.load(Ordering::Acquire);
                if let Some(record) = datapath.take(&key)? {
                    packets += record.ab.packets + record.ba.packets;
                    taken += 1;
                }
                if last {
                    return Ok((packets, taken));
                }
                thread::yield_now();
            }
        });
        let join = |_| anyhow::anyhow!("a thread panicked");
        sender.join().map_err(join)??;
        taker.join().map_err(join)?
    })?;
    assert_eq!(packets, PACKETS, "in {taken} records");
    Ok(())
}
