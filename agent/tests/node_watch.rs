//! The live node view against a real kernel, in a throw-away network namespace.

use std::fs::File;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nodescope::flow::Role;
use nodescope::node::{self, InterfaceFilter, Kind, NodeView, Watch};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A pair of namespaces, one the node, the other all of its pods; gone on drop.
struct Namespaces {
    node: String,
    pods: String,
}

impl Namespaces {
    /// `None` (and a line that says so) without root.
    fn new(test: &str) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return Ok(None);
        }
        let made = Self {
            node: format!("ns-labnode-{test}"),
            pods: format!("ns-labnode-{test}-p"),
        };
        for name in [&made.node, &made.pods] {
            let left_over = format!("/run/netns/{name}");
            if std::path::Path::new(&left_over).exists() {
                ip(&["netns", "delete", name])?;
            }
            ip(&["netns", "add", name])?;
        }
        Ok(Some(made))
    }

    /// `ip` in the node's namespace.
    fn ip(&self, arguments: &str) -> Result<()> {
        let mut all = vec!["-n", &self.node];
        all.extend(arguments.split_whitespace());
        ip(&all)
    }

    /// Many `ip` commands in the node's namespace in one process.
    fn batch(&self, lines: &str) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut file, lines.as_bytes())?;
        let path = file.path().to_string_lossy().into_owned();
        ip(&["-n", &self.node, "-batch", &path])
    }

    /// Runs `test` on a thread of its own inside the node's namespace.
    fn inside<T, F>(&self, test: T) -> Result<()>
    where
        T: FnOnce() -> F + Send,
        F: Future<Output = Result<()>>,
    {
        let path = format!("/run/netns/{}", self.node);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let namespace = File::open(&path).with_context(|| path.clone())?;
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&namespace),
                    Some(LinkNameSpaceType::Network),
                )?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(test())
            });
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the test's thread panicked"))?
        })
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.node, &self.pods] {
            if let Err(error) = ip(&["netns", "delete", name]) {
                eprintln!("{name} stays behind: {error}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("ip (iproute2)")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {errors}",
        arguments.join(" ")
    );
    Ok(())
}

/// Waits until the view satisfies `wanted`.
async fn until(
    watch: &Watch,
    what: &str,
    wanted: impl Fn(&NodeView) -> bool,
) -> Result<Arc<NodeView>> {
    let mut views = watch.subscribe();
    let found = tokio::time::timeout(Duration::from_secs(10), views.wait_for(|view| wanted(view)))
        .await
        .with_context(|| format!("timeout: {what}; {:#?}", watch.view()))??
        .clone();
    Ok(found)
}

/// `ip` on another thread, so that the watch runs meanwhile.
async fn run(commands: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    std::thread::scope(|scope| scope.spawn(commands).join())
        .map_err(|_| anyhow::anyhow!("the command's thread panicked"))?
}

#[test]
fn a_node_is_seen_as_it_is_and_as_it_becomes() -> Result<()> {
    let Some(lab) = Namespaces::new("becomes")? else {
        return Ok(());
    };
    let pods = lab.pods.clone();
    lab.batch(&format!(
        "link add eth0 type veth peer name up0 netns {pods}
         addr add 10.224.0.4/16 dev eth0
         link set lo up
         link set eth0 up
         route add default via 10.224.0.1
         link add cbr0 type bridge
         addr add 10.244.0.1/24 dev cbr0
         link set cbr0 up
        "
    ))?;
    lab.inside(async || {
        let watch = node::watch().await?;
        let view = watch.view();
        let index = |view: &NodeView, name: &str| view.by_name(name).map(|found| found.index);
        let eth0 = index(&view, "eth0").context("eth0")?;
        let cbr0 = index(&view, "cbr0").context("cbr0")?;
        ensure!(view.default_routes == [eth0], "{:?}", view.default_routes);
        ensure!(view.is_own_address("10.224.0.4".parse()?));
        ensure!(view.interfaces[&cbr0].kind == Kind::Bridge && view.interfaces[&cbr0].up);
        let filter = InterfaceFilter::default();
        let roles = node::roles(&view, &filter);
        ensure!(roles.get(&eth0) == Some(&Role::Uplink), "{roles:?}");
        ensure!(roles.get(&cbr0) == Some(&Role::Bridge), "{roles:?}");
        ensure!(roles.len() == 2, "{roles:?}");

        // A pod: seen while still down, then as a port of the bridge, then with its address.
        let add = format!("link add veth9423965c type veth peer name eth0 netns {pods}");
        run(|| lab.ip(&add)).await?;
        let view = until(&watch, "veth", |view| {
            view.by_name("veth9423965c").is_some()
        })
        .await?;
        let veth = view
            .by_name("veth9423965c")
            .context("veth9423965c")?
            .clone();
        ensure!(
            veth.kind == Kind::Veth && veth.peer_elsewhere && !veth.up,
            "{veth:?}"
        );
        ensure!(node::roles(&view, &filter).get(&veth.index) == Some(&Role::Pod));

        run(|| lab.ip("link set veth9423965c master cbr0 up")).await?;
        let port = |view: &NodeView| {
            view.interfaces
                .get(&veth.index)
                .is_some_and(|now| now.up && now.master == Some(cbr0))
        };
        until(&watch, "bridge port", port).await?;
        run(|| {
            lab.ip("neigh add 10.244.0.15 lladdr 0a:58:0a:f4:00:0f dev cbr0")?;
            let bridge = ["-n", &lab.node, "fdb", "add", "0a:58:0a:f4:00:0f", "dev"];
            let output = Command::new("bridge")
                .args(bridge)
                .args(["veth9423965c", "master"])
                .output()?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        })
        .await?;
        let pod = "10.244.0.15".parse()?;
        until(&watch, "pod address", |view| {
            node::pod_interface(view, pod) == Some(veth.index)
        })
        .await?;

        // Leaving the bridge is not leaving the node.
        run(|| lab.ip("link set veth9423965c nomaster")).await?;
        let free = |view: &NodeView| {
            view.interfaces
                .get(&veth.index)
                .is_some_and(|now| now.master.is_none())
        };
        until(&watch, "free port", free).await?;

        // A pod routed to by its own route.
        run(|| lab.ip("route add 10.244.0.16/32 dev veth9423965c")).await?;
        let routed = "10.244.0.16".parse()?;
        until(&watch, "route", |view| {
            node::pod_interface(view, routed) == Some(veth.index)
        })
        .await?;

        // It goes, and all that hung on it.
        run(|| lab.ip("link delete veth9423965c")).await?;
        let gone = |view: &NodeView| {
            !view.interfaces.contains_key(&veth.index)
                && view.routes.iter().all(|route| route.ifindex != veth.index)
                && view.fdb.iter().all(|entry| entry.port != veth.index)
        };
        until(&watch, "no veth", gone).await?;

        // The kernel says nothing of IPv4 routes that go with a link that is set down.
        run(|| lab.ip("link set eth0 down")).await?;
        until(&watch, "no default route", |view| {
            view.default_routes.is_empty()
        })
        .await?;
        Ok(())
    })
}

#[test]
fn a_new_interface_is_told_at_once() -> Result<()> {
    let Some(lab) = Namespaces::new("once")? else {
        return Ok(());
    };
    let pods = lab.pods.clone();
    lab.inside(async || {
        let watch = node::watch().await?;
        let mut slowest = Duration::ZERO;
        for number in 0..20 {
            // Renaming is one event of an interface that is there already: the time from before
            // the command to the view holds the command's own start as well.
            let name = format!("veth{number:08x}");
            let add = format!("link add {name} type veth peer name eth{number} netns {pods}");
            let started = Instant::now();
            run(|| lab.ip(&add)).await?;
            let command = started.elapsed();
            until(&watch, &name, |view| view.by_name(&name).is_some()).await?;
            slowest = slowest.max(started.elapsed().saturating_sub(command));
        }
        println!("slowest from the end of the command to the view: {slowest:?}");
        ensure!(slowest < Duration::from_millis(50), "{slowest:?}");
        Ok(())
    })
}

#[test]
fn a_burst_of_pods_is_seen_whole_and_leaves_nothing() -> Result<()> {
    let Some(lab) = Namespaces::new("burst")? else {
        return Ok(());
    };
    let pods = lab.pods.clone();
    lab.ip("link add cbr0 type bridge")?;
    lab.ip("link set cbr0 up")?;
    lab.inside(async || {
        let watch = node::watch().await?;
        let before = watch.view();
        let count = 100;
        let mut add = String::new();
        let mut delete = String::new();
        for pod in 0..count {
            add += &format!("link add veth{pod:08x} type veth peer name e{pod} netns {pods}\n");
            add += &format!("link set veth{pod:08x} master cbr0 up\n");
            add += &format!("route add 10.244.1.{pod}/32 dev cbr0\n");
            delete += &format!("link delete veth{pod:08x}\n");
            delete += &format!("route delete 10.244.1.{pod}/32 dev cbr0\n");
        }
        // The commands run while this runtime is blocked: the events pile up in the socket.
        run(|| lab.batch(&add)).await?;
        let all = |view: &NodeView| {
            let roles = node::roles(view, &InterfaceFilter::default());
            roles.values().filter(|role| **role == Role::Pod).count() == count
                && view
                    .interfaces
                    .values()
                    .filter(|port| port.master.is_some())
                    .count()
                    == count
                && view
                    .routes
                    .iter()
                    .filter(|route| route.destination.prefix_len() == 32)
                    .count()
                    == count
        };
        until(&watch, "all pods", all).await?;

        run(|| lab.batch(&delete)).await?;
        // The route of the last pod goes after its link, perhaps in the next batch of events.
        until(&watch, "nothing of the pods", |view| {
            let own = |route: &node::Route| route.destination.prefix_len() == 32;
            view.interfaces.len() == before.interfaces.len()
                && !view.routes.iter().any(own)
                && view.fdb.len() <= before.fdb.len()
        })
        .await?;
        let statistics = watch.statistics();
        println!("{statistics:?}");
        Ok(())
    })
}

#[test]
fn what_the_kernel_had_to_drop_is_read_anew() -> Result<()> {
    let Some(lab) = Namespaces::new("overrun")? else {
        return Ok(());
    };
    let pods = lab.pods.clone();
    lab.ip("link add cbr0 type bridge")?;
    lab.ip("link set cbr0 up")?;
    lab.inside(async || {
        let watch = node::watch().await?;
        let statistics = watch.statistics();
        let overruns = || {
            statistics
                .overruns
                .load(std::sync::atomic::Ordering::Relaxed)
        };
        let mut made = 0;
        // Until the socket's buffer, whatever its size, was too small once.
        while overruns() == 0 && made < 1000 {
            let mut add = String::new();
            for pod in made..made + 100 {
                add += &format!("link add veth{pod:08x} type veth peer name e{pod} netns {pods}\n");
                for mtu in 1301..=1400 {
                    add += &format!("link set veth{pod:08x} mtu {mtu}\n");
                }
            }
            made += 100;
            run(|| lab.batch(&add)).await?;
            until(&watch, "all", |view| {
                view.interfaces
                    .values()
                    .filter(|found| found.mtu == 1400)
                    .count()
                    == made
            })
            .await?;
        }
        println!("{made} interfaces, {statistics:?}");
        ensure!(overruns() > 0, "the buffer was never too small");
        Ok(())
    })
}
