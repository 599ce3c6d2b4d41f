//! The kernel side by itself: loaded, attached both ways, counting exactly, in a namespace of its
//! own that goes with the test's thread.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;

use nodescope::datapath::{Datapath, Method, Pinning, Settings, Side};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome = Result<(), Failure>;

/// A namespace `ns-labdp…` with one end of a veth pair, the other end in `…-peer`.
struct Namespaces(String);

impl Namespaces {
    fn new(name: &str) -> Result<Self, Failure> {
        let name = format!("ns-labdp{name}{}", std::process::id());
        let peer = format!("{name}-peer");
        let made = Self(name.clone());
        for line in [
            format!("netns add {name}"),
            format!("netns add {peer}"),
            format!("-n {name} link add near type veth peer name far netns {peer}"),
            format!("-n {name} addr add 10.244.0.1/24 dev near"),
            format!("-n {peer} addr add 10.244.0.2/24 dev far"),
            // No link-local addresses, whose upkeep would be packets.
            format!("-n {name} link set near addrgenmode none"),
            format!("-n {peer} link set far addrgenmode none"),
            format!("-n {name} link set near up"),
            format!("-n {peer} link set far up"),
            // Nothing but what the test sends: neighbours are known beforehand.
            format!("-n {name} link set near address 02:00:00:00:00:01"),
            format!("-n {peer} link set far address 02:00:00:00:00:02"),
            format!("-n {name} neigh add 10.244.0.2 lladdr 02:00:00:00:00:02 dev near"),
            format!("-n {peer} neigh add 10.244.0.1 lladdr 02:00:00:00:00:01 dev far"),
        ] {
            ip(&line)?;
        }
        Ok(made)
    }

    /// Runs `work` on a thread inside.
    fn enter<T: Send>(
        &self,
        suffix: &str,
        work: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let path = format!("/run/netns/{}{suffix}", self.0);
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = std::fs::File::open(&path)?;
                rustix::thread::move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&file),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )?;
                work()
            });
            match inside.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [self.0.clone(), format!("{}-peer", self.0)] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(line: &str) -> Outcome {
    let out = Command::new("ip").args(line.split(' ')).output()?;
    if !out.status.success() {
        return Err(format!("ip {line}: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(())
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root for network namespaces and eBPF");
    }
    root
}

/// How many filters an interface has at its ingress and egress, by tc's own word.
fn filters(interface: &str) -> Result<[usize; 2], Failure> {
    let mut counts = [0; 2];
    for (count, direction) in counts.iter_mut().zip(["ingress", "egress"]) {
        let args = ["filter", "show", "dev", interface, direction];
        let out = Command::new("tc").args(args).output()?;
        let text = String::from_utf8(out.stdout)?;
        *count = text.matches("direct-action").count();
    }
    Ok(counts)
}

fn load(method: Method) -> Result<Datapath, nodescope::datapath::Error> {
    Datapath::load(&Settings {
        max_connections: 1024,
        nat: true,
        dns_questions: false,
        method: Some(method),
        pinning: None,
    })
}

/// Sends `packets` datagrams of `size` bytes from the near end to the far.
fn send(namespaces: &Namespaces, packets: usize, size: usize) -> Outcome {
    let server = namespaces.enter("-peer", || {
        Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7000))?)
    })?;
    namespaces.enter("", || -> Outcome {
        let client = UdpSocket::bind((Ipv4Addr::new(10, 244, 0, 1), 6000))?;
        for _ in 0..packets {
            client.send_to(&vec![0; size], SocketAddr::from(([10, 244, 0, 2], 7000)))?;
        }
        Ok(())
    })?;
    let mut buffer = [0; 2048];
    for _ in 0..packets {
        server.recv(&mut buffer)?;
    }
    Ok(())
}

/// Packets and bytes of the one conversation, each way.
fn counted(datapath: &mut Datapath) -> Result<Vec<[(u64, u64); 2]>, nodescope::datapath::Error> {
    let mut found = Vec::new();
    datapath.for_each(|key, record| {
        let (near, far) = if key.a_port == 6000 {
            (record.ab, record.ba)
        } else {
            (record.ba, record.ab)
        };
        found.push([(near.packets, near.bytes), (far.packets, far.bytes)]);
    })?;
    Ok(found)
}

/// 14 bytes of Ethernet, 20 of IPv4, 8 of UDP.
const HEADERS: u64 = 42;

fn counts_exactly(method: Method) -> Outcome {
    let namespaces = Namespaces::new(method.name())?;
    let mut datapath = load(method)?;
    namespaces.enter("", || -> Outcome {
        let index = interface_index("near")?;
        // Twice: the second time nothing happens.
        datapath.attach(index, "near", Side::Port)?;
        datapath.attach(index, "near", Side::Port)?;
        let expected = if method == Method::Clsact {
            [1, 1]
        } else {
            [0, 0]
        };
        assert_eq!(filters("near")?, expected);
        Ok(())
    })?;
    send(&namespaces, 5, 100)?;
    let bytes = 5 * (HEADERS + 100);
    assert_eq!(counted(&mut datapath)?, vec![[(5, bytes), (0, 0)]]);

    // Taken out with its last values; the next packet begins anew.
    let mut keys = Vec::new();
    datapath.for_each(|key, _| keys.push(*key))?;
    let taken = datapath.take(&keys[0])?;
    assert!(taken.is_some_and(|record| record.ab.packets + record.ba.packets == 5));
    assert_eq!(datapath.take(&keys[0])?, None);
    assert!(counted(&mut datapath)?.is_empty());
    send(&namespaces, 2, 10)?;
    assert_eq!(
        counted(&mut datapath)?,
        vec![[(2, 2 * (HEADERS + 10)), (0, 0)]]
    );

    // Off again: nothing is counted, nothing stays.
    let index = namespaces.enter("", || interface_index("near"))?;
    namespaces.enter("", || {
        datapath.detach(index);
        Ok(())
    })?;
    // A process that another test is about to start has this one's links for an instant.
    let mut last = counted(&mut datapath)?;
    let start = std::time::Instant::now();
    loop {
        send(&namespaces, 1, 10)?;
        let now = counted(&mut datapath)?;
        if now == last {
            break;
        }
        last = now;
        assert!(start.elapsed().as_secs() < 30, "still counted: {last:?}");
    }
    send(&namespaces, 3, 10)?;
    assert_eq!(counted(&mut datapath)?, last);
    assert_eq!(namespaces.enter("", || filters("near"))?, [0, 0]);
    Ok(())
}

fn interface_index(name: &str) -> Result<u32, Failure> {
    let out = Command::new("ip")
        .args(["-o", "link", "show", "dev", name])
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    Ok(text.split(':').next().unwrap_or_default().parse()?)
}

/// What changed is told of once a round, new records aside; and when it is more than fits, that is
/// said.
#[test]
fn changes_are_told_once_a_round() -> Outcome {
    /// More than the ring has room for.
    const MANY: u16 = 40_000;
    if !is_root() {
        return Ok(());
    }
    let namespaces = Namespaces::new("rounds")?;
    let mut datapath = Datapath::load(&Settings {
        max_connections: 4096,
        nat: false,
        dns_questions: false,
        method: None,
        pinning: None,
    })?;
    namespaces.enter("", || -> Outcome {
        let index = interface_index("near")?;
        Ok(datapath.attach(index, "near", Side::Port)?)
    })?;
    let changes = |datapath: &mut Datapath| -> Result<_, Failure> {
        let mut keys = Vec::new();
        let all = datapath.changes(|key| keys.push(key))?;
        Ok((all, keys))
    };
    // New: nothing is told here. Then once, however much changes.
    send(&namespaces, 5, 100)?;
    assert_eq!(changes(&mut datapath)?, (true, vec![]));
    send(&namespaces, 5, 100)?;
    let (all, keys) = changes(&mut datapath)?;
    assert!(all);
    let [key] = keys.as_slice() else {
        return Err(format!("{keys:?}").into());
    };
    let record = datapath.hop(key).ok_or("there is no such record")?;
    assert_eq!(record.ab.packets + record.ba.packets, 10);
    assert_eq!(changes(&mut datapath)?, (true, vec![]));

    let many = || {
        namespaces.enter("", || -> Outcome {
            let client = UdpSocket::bind((Ipv4Addr::new(10, 244, 0, 1), 6000))?;
            for port in 20_000..20_000 + MANY {
                // Nobody listens, which an error says.
                let _ = client.send_to(&[0; 10], (Ipv4Addr::new(10, 244, 0, 2), port));
            }
            Ok(())
        })
    };
    many()?;
    changes(&mut datapath)?;
    many()?;
    let (all, keys) = changes(&mut datapath)?;
    assert!(!all, "{} keys", keys.len());
    assert!(keys.len() > 30_000, "{} keys", keys.len());
    // Once more, for one that says so late; then there is room again.
    changes(&mut datapath)?;
    send(&namespaces, 1, 10)?;
    let (all, keys) = changes(&mut datapath)?;
    assert!(all);
    assert_eq!(keys.len(), 1);
    Ok(())
}

#[test]
fn tcx_counts_exactly() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    if Method::of_this_kernel() != Method::Tcx {
        println!("skipped: this kernel has no TCX");
        return Ok(());
    }
    counts_exactly(Method::Tcx)
}

#[test]
fn clsact_counts_exactly() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    counts_exactly(Method::Clsact)
}

/// A killed agent leaves its clsact filters; the next one takes their place.
#[test]
fn clsact_filters_of_a_killed_agent_are_replaced() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let namespaces = Namespaces::new("stale")?;
    let mut killed = load(Method::Clsact)?;
    let index = namespaces.enter("", || -> Result<u32, _> {
        let index = interface_index("near")?;
        killed.attach(index, "near", Side::Port)?;
        Ok::<_, Failure>(index)
    })?;
    // As SIGKILL does: no destructor runs, the filters stay.
    std::mem::forget(killed);
    let mut next = load(Method::Clsact)?;
    namespaces.enter("", || -> Outcome {
        next.attach(index, "near", Side::Port)?;
        assert_eq!(filters("near")?, [1, 1]);
        Ok(())
    })?;
    send(&namespaces, 4, 10)?;
    assert_eq!(counted(&mut next)?, vec![[(4, 4 * (HEADERS + 10)), (0, 0)]]);
    Ok(())
}

/// A folder on a BPF file system of its own, which goes with the value.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("bpf", folder.path(), "bpf", flags, None)?;
        Ok(Self(folder))
    }

    fn load(&self, method: Method) -> Result<Datapath, nodescope::datapath::Error> {
        Datapath::load(&Settings {
            max_connections: 1024,
            nat: true,
            dns_questions: false,
            method: Some(method),
            pinning: Some(Pinning {
                folder: self.0.path().join("nodescope"),
                keep: true,
            }),
        })
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// What passes while nobody is there is in the table that the next one takes over, with the same
/// hooks; another one beside it is refused.
fn goes_on(method: Method) -> Outcome {
    let namespaces = Namespaces::new(&format!("on{}", method.name()))?;
    let bpffs = Bpffs::mount()?;
    let mut before = None;
    for round in 1..=3_u64 {
        let mut datapath = namespaces.enter("", || -> Result<Datapath, Failure> {
            let mut datapath = bpffs.load(method)?;
            datapath.attach(interface_index("near")?, "near", Side::Port)?;
            if round == 1 {
                let Err(error) = bpffs.load(method).map(drop) else {
                    return Err("two have what is pinned".into());
                };
                assert!(error.to_string().contains("another agent"), "{error}");
            }
            Ok(datapath)
        })?;
        assert_eq!(datapath.taken_over(), round > 1);
        let hooks = namespaces.enter("", || filters("near"))?;
        let expected = usize::from(method == Method::Clsact);
        assert_eq!(hooks, [expected; 2]);
        send(&namespaces, 3, 10)?;
        let packets = round * 5 - 2;
        let counts = counted(&mut datapath)?;
        assert_eq!(counts, vec![[(packets, packets * (HEADERS + 10)), (0, 0)]]);
        // The record is the same all along.
        let mut keys = Vec::new();
        datapath.for_each(|_, record| keys.push(record.first_ns))?;
        assert_eq!(*before.get_or_insert(keys.clone()), keys);
        drop(datapath);
        send(&namespaces, 2, 10)?;
    }
    Ok(())
}

#[test]
fn tcx_goes_on_after_a_restart() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    if Method::of_this_kernel() != Method::Tcx {
        println!("skipped: this kernel has no TCX");
        return Ok(());
    }
    goes_on(Method::Tcx)
}

#[test]
fn clsact_goes_on_after_a_restart() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    goes_on(Method::Clsact)
}

/// While the kernel keeps statistics, each packet is a run.
#[test]
fn run_statistics_count_each_packet() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let namespaces = Namespaces::new("cost")?;
    let mut datapath = load(Method::of_this_kernel())?;
    assert_eq!(datapath.costs(), []);
    namespaces.enter("", || -> Outcome {
        let index = interface_index("near")?;
        Ok(datapath.attach(index, "near", Side::Port)?)
    })?;
    let statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    send(&namespaces, 5, 10)?;
    drop(statistics);
    let costs = datapath.costs();
    let [egress] = costs.as_slice() else {
        return Err(format!("one program ran, not {costs:?}").into());
    };
    assert_eq!((egress.program.as_str(), egress.runs), ("port_egress", 5));
    assert!(egress.mean().is_some_and(|mean| !mean.is_zero()));
    Ok(())
}

/// An interface that is not there is named in the error.
#[test]
fn an_interface_that_is_not_there_is_named() -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let mut datapath = load(Method::of_this_kernel())?;
    let Err(error) = datapath.attach(4_000_000, "nosuch0", Side::Port) else {
        return Err("attached to an interface that is not there".into());
    };
    assert!(error.to_string().contains("nosuch0"), "{error}");
    Ok(())
}
