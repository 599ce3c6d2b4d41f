//! Interfaces as nodes have them: a bond, and a clsact qdisc with other people's filters. These run
//! here as far as this kernel has what they need, and by `cargo xtask kernels` on other kernels.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context, Result, ensure};
use nodescope::datapath::{Datapath, Method, Settings, Side};
use nodescope::flow::Role;
use nodescope::node::{self, InterfaceFilter};
use nodescope_tests::lab::Netns;

/// Datagrams to a port.
const TIMES: u64 = 3;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root for network namespaces and eBPF");
    }
    root
}

fn run(program: &str, arguments: &str) -> Result<String> {
    let out = std::process::Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        out.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A node and what is at the other end of its wires; gone on drop.
struct Pair(Netns, Netns);

impl Pair {
    fn new(name: &str) -> Result<Self> {
        let named = |end: &str| Netns::named(format!("ns-labi{name}{}-{end}", std::process::id()));
        let made = Self(named("node"), named("far"));
        for netns in [&made.0, &made.1] {
            run("ip", &format!("netns add {}", netns.name()))?;
        }
        Ok(made)
    }

    /// Wires with these names at the node's end; nothing is sent by itself.
    fn wires(&self, names: &[&str]) -> Result<()> {
        let far = self.1.name();
        for name in names {
            self.0.ip(&[
                format!("link add {name} type veth peer name far-{name} netns {far}"),
                format!("link set {name} addrgenmode none"),
            ])?;
            self.1.ip(&[
                format!("link set far-{name} addrgenmode none"),
                format!("link set far-{name} up"),
            ])?;
        }
        Ok(())
    }

    /// Sends datagrams out of the node to each port of a neighbour.
    fn send(&self, ports: &[u16]) -> Result<()> {
        self.0.enter(|| -> Result<()> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 6000))?;
            for port in ports {
                for _ in 0..TIMES {
                    socket.send_to(b"interfaces", (Ipv4Addr::new(10, 244, 0, 2), *port))?;
                }
            }
            Ok(())
        })?
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for netns in [&self.0, &self.1] {
            let _ = run("ip", &format!("netns del {}", netns.name()));
        }
    }
}

/// Packets in records of an interface, by the port that they went to.
fn counted(datapath: &mut Datapath, ports: &[u16]) -> Result<Vec<u64>> {
    let mut counts = vec![0; ports.len()];
    datapath.for_each(|key, record| {
        let found = ports
            .iter()
            .position(|port| [key.a_port, key.b_port].contains(port));
        if let Some(at) = found {
            counts[at] += record.ab.packets + record.ba.packets;
        }
    })?;
    Ok(counts)
}

fn load(method: Option<Method>) -> Result<Datapath> {
    Ok(Datapath::load(&Settings {
        max_connections: 1024,
        nat: false,
        dns_questions: false,
        method,
        pinning: None,
    })?)
}

/// The default route leaves by a bond of two wires: it has the hooks, its slaves have none, and a
/// packet is counted once.
#[test]
fn a_bond_is_counted_once() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let pair = Pair::new("bond")?;
    let here = &pair.0;
    if let Err(error) = here.ip(&["link add bond0 type bond mode active-backup".to_owned()]) {
        println!("skipped: this kernel has no bonding ({error:#})");
        return Ok(());
    }
    pair.wires(&["eth0", "eth1"])?;
    here.ip(&[
        "link set bond0 addrgenmode none".to_owned(),
        "link set eth0 master bond0".to_owned(),
        "link set eth1 master bond0".to_owned(),
        "addr add 10.244.0.1/24 dev bond0".to_owned(),
        "link set bond0 up".to_owned(),
        "neigh add 10.244.0.2 lladdr 02:00:00:00:00:02 dev bond0".to_owned(),
        "route add default via 10.244.0.2".to_owned(),
    ])?;

    let view = here.enter(|| -> Result<_> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(node::watch())?.view())
    })??;
    let index = |name| view.by_name(name).map(|found| found.index).context(name);
    let bond = index("bond0")?;
    let roles = node::roles(&view, &InterfaceFilter::default());
    assert_eq!(roles.iter().collect::<Vec<_>>(), [(&bond, &Role::Uplink)]);
    let beneath = node::beneath(&view, &roles);
    for slave in ["eth0", "eth1"] {
        let found = beneath.get(&index(slave)?).context(slave)?;
        assert_eq!((found.counted_at, &*found.part), (bond, "slave of bond0"));
    }

    let mut datapath = load(None)?;
    here.enter(|| datapath.attach(bond, "bond0", Side::Host))??;
    pair.send(&[7001])?;
    assert_eq!(counted(&mut datapath, &[7001])?, [TIMES]);
    Ok(())
}

/// Filters of a clsact qdisc that were there stay where they are, and end the way of their packets
/// as before. What one before the agent's ends, the agent's does not see.
#[test]
fn foreign_filters_of_a_clsact_qdisc_stay_and_run() -> Result<()> {
    const BEFORE: u16 = 7001;
    const BEHIND: u16 = 7002;
    const ORDINARY: u16 = 7003;
    if !is_root() {
        return Ok(());
    }
    let pair = Pair::new("tc")?;
    let Pair(here, there) = &pair;
    pair.wires(&["near"])?;
    here.ip(&[
        "addr add 10.244.0.1/24 dev near".to_owned(),
        "link set near up".to_owned(),
        "neigh add 10.244.0.2 lladdr 02:00:00:00:00:02 dev near".to_owned(),
    ])?;
    there.ip(&[
        "link set far-near address 02:00:00:00:00:02".to_owned(),
        "addr add 10.244.0.2/24 dev far-near".to_owned(),
    ])?;
    // UDP to the port: drop; else: next.
    let drop_port = |port: u16| format!("4,40 0 0 36,21 0 1 {port},6 0 0 2,6 0 0 4294967295");
    let filter = "filter add dev near egress protocol ip";
    here.tool(
        &["tc", "-batch", "-"],
        &format!(
            "qdisc add dev near clsact\n\
             {filter} prio 1 bpf da bytecode '{}'\n\
             {filter} prio 65000 bpf da bytecode '{}'\n",
            drop_port(BEFORE),
            drop_port(BEHIND),
        ),
    )?;
    let filters = || here.enter(|| run("tc", "filter show dev near egress"))?;
    let before = filters()?;

    let ports = [BEFORE, BEHIND, ORDINARY];
    let sockets = there.enter(|| {
        let all = ports.iter();
        all.map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)))
            .collect::<Result<Vec<_>, _>>()
    })??;
    let mut datapath = load(Some(Method::Clsact))?;
    let near = index(here, "near")?;
    here.enter(|| datapath.attach(near, "near", Side::Port))??;
    assert_ne!(filters()?, before);
    pair.send(&ports)?;
    assert_eq!(counted(&mut datapath, &ports)?, [0, TIMES, TIMES]);
    for (socket, wanted) in sockets.iter().zip([0, 0, TIMES]) {
        socket.set_nonblocking(true)?;
        let mut arrived = 0;
        while socket.recv(&mut [0; 64]).is_ok() {
            arrived += 1;
        }
        assert_eq!(arrived, wanted);
    }
    here.enter(|| datapath.detach(near))?;
    assert_eq!(filters()?, before);
    Ok(())
}

/// Of many new interfaces the first hook comes before any has both; and an interface that has lost
/// its name to another is not taken for that one.
#[test]
fn hooks_come_one_after_the_other_and_on_the_right_interface() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let pair = Pair::new("half")?;
    let here = &pair.0;
    pair.wires(&["near", "other"])?;
    let near = index(here, "near")?;
    let mut datapath = load(Some(Method::Clsact))?;
    let filters = || -> Result<[usize; 2]> {
        let count = |direction: &str| -> Result<usize> {
            let line = format!("filter show dev near {direction}");
            let text = here.enter(|| run("tc", &line))??;
            Ok(text.matches("direct-action").count())
        };
        Ok([count("ingress")?, count("egress")?])
    };
    for (whole, wanted) in [
        (false, [1, 0]),
        (false, [1, 0]),
        (true, [1, 1]),
        (false, [1, 1]),
    ] {
        here.enter(|| match whole {
            true => datapath.attach(near, "near", Side::Port),
            false => datapath.attach_ingress(near, "near", Side::Port, false),
        })??;
        assert_eq!(filters()?, wanted);
    }
    here.enter(|| datapath.detach(near))?;
    assert_eq!(filters()?, [0, 0]);

    let renamed = here.enter(|| datapath.attach(near, "other", Side::Port))?;
    let error = renamed.err().context("it took the other's place")?;
    let text = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(text.contains("other"), "{text}");
    assert!(!datapath.is_attached(near));
    Ok(())
}

/// When many interfaces wait a filter takes the place of a link, which an agent leaves behind when
/// it is killed: the next one removes it.
#[test]
fn hooks_in_a_hurry_are_filters_and_leave_with_the_next_agent() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    if Method::of_this_kernel() != Method::Tcx {
        println!("skipped: this kernel has no TCX");
        return Ok(());
    }
    let pair = Pair::new("hurry")?;
    let here = &pair.0;
    pair.wires(&["near"])?;
    let near = index(here, "near")?;
    let filters = || -> Result<usize> {
        let text = here.enter(|| run("tc", "filter show dev near ingress"))??;
        Ok(text.matches("direct-action").count())
    };
    let mut hurried = load(None)?;
    here.enter(|| hurried.attach_ingress(near, "near", Side::Port, true))??;
    here.enter(|| hurried.attach(near, "near", Side::Port))??;
    assert_eq!(hurried.method_at(near), Some(Method::Clsact));
    assert_eq!(filters()?, 1);
    // As if it were killed: what is let go of is removed.
    std::mem::forget(hurried);
    let mut calm = load(None)?;
    here.enter(|| calm.attach(near, "near", Side::Port))??;
    assert_eq!(calm.method_at(near), Some(Method::Tcx));
    assert_eq!(filters()?, 0);
    drop(calm);

    // Who names a method gets it.
    let mut strict = load(Some(Method::Tcx))?;
    here.enter(|| strict.attach_ingress(near, "near", Side::Port, true))??;
    assert_eq!(strict.method_at(near), Some(Method::Tcx));
    Ok(())
}

fn index(netns: &Netns, name: &str) -> Result<u32> {
    let line = netns.enter(|| run("ip", &format!("-o link show dev {name}")))??;
    Ok(line.split(':').next().unwrap_or_default().parse()?)
}
