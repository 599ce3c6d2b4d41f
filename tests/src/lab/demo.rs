//! The lab to look at: a cluster, agents, traffic, and the flows as they come.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::agent::{Agent, socket_in};
use super::agent_pods::HUBBLE_PORT;
use super::process::{binary, spawn_here};
use super::{Lab, Model, RUN_ROOT, live};

/// The pause between two rounds of traffic.
const ROUND_PAUSE: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Debug, Args)]
pub struct DemoOptions {
    /// Stop after this time (30s, 5m); until Ctrl-C when not given
    #[arg(long = "for", value_parser = parse_duration)]
    pub length: Option<Duration>,
    /// Make cbr0 promiscuous, as kubenet does by default
    #[arg(long)]
    pub promiscuous: bool,
    /// The lab's name, when several are to run
    #[arg(long, default_value = "demo")]
    pub name: String,
    /// The network model
    #[arg(long, value_enum, default_value_t)]
    pub topology: Model,
    /// Start no agents: only the cluster and its traffic
    #[arg(long)]
    pub no_agents: bool,
    /// Run a real kube-apiserver, controller-manager and kube-proxies, from the folder that
    /// KUBEBUILDER_ASSETS names
    #[arg(long)]
    pub real: bool,
}

/// Runs the lab until its time is over or the user ends it; removes it.
pub fn run(options: &DemoOptions) -> Result<()> {
    let stop = stop_flag()?;
    let start = Instant::now();
    let mut builder = super::LabBuilder::new(&options.name)
        .exact_name()
        .topology(options.topology)
        .showcase()
        .promiscuous_bridge(options.promiscuous);
    if options.real {
        builder = builder.real();
    }
    let lab = builder.start()?;
    let nodes = lab.topology().nodes.len();
    let mut agents = Vec::new();
    if !options.no_agents {
        let hubble = format!("127.0.0.1:{HUBBLE_PORT}");
        for index in 0..nodes {
            agents.push(lab.launch_agent(index, &["--listen-hubble", &hubble])?);
            lab.announce_agent(index)?;
        }
        agents.iter_mut().try_for_each(Agent::wait_ready)?;
    }
    println!("{}", intro(&lab, start.elapsed()));
    let mut observer = match agents.is_empty() {
        true => None,
        false => Some(observe(&agents)?),
    };
    let end = options.length.map(|length| Instant::now() + length);
    let over = || stop.load(Ordering::SeqCst) || end.is_some_and(|end| Instant::now() >= end);
    let outcome = play_rounds(&lab, &mut agents, &mut observer, &over);
    if let Some(observer) = &mut observer {
        // It may have ended already.
        let _ = observer.kill();
        observer.wait()?;
    }
    for agent in &mut agents {
        if agent.is_running() {
            agent.stop()?;
        }
    }
    let name = lab.name().to_owned();
    drop(lab);
    println!("\nlab {name} removed");
    outcome
}

/// Plays rounds until `over`; an error when an agent ends.
fn play_rounds(
    lab: &Lab,
    agents: &mut [Agent],
    observer: &mut Option<Child>,
    over: &impl Fn() -> bool,
) -> Result<()> {
    while !over() {
        for played in lab.play()? {
            // Ctrl-C in the middle of a round is no failure of the round.
            if let Some(error) = played.error.filter(|_| !over()) {
                eprintln!("{} ({}): {error}", played.play.what, played.play.pod);
            }
        }
        let pause = Instant::now() + ROUND_PAUSE;
        while !over() && Instant::now() < pause {
            for (index, agent) in agents.iter_mut().enumerate() {
                if !agent.is_running() {
                    bail!("the agent on node{index} ended: {}", agent.log().trim());
                }
            }
            if let Some(status) = ended(observer)? {
                bail!("nodescope observe ended with {status}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn ended(child: &mut Option<Child>) -> Result<Option<ExitStatus>> {
    match child {
        Some(child) => Ok(child.try_wait()?),
        None => Ok(None),
    }
}

/// Runs a nodescope command against the labs that run; its exit code.
pub fn cli(args: &[String]) -> Result<ExitStatus> {
    let mut sockets = Vec::new();
    for name in live() {
        let dir = Path::new(RUN_ROOT).join(&name);
        let nodes = (0..).map(|index| socket_in(&dir, index));
        sockets.extend(nodes.take_while(|socket| socket.exists()));
    }
    if sockets.is_empty() {
        bail!("no lab with agents is running: start one with 'cargo xtask lab'");
    }
    let mut command = Command::new(binary("NODESCOPE_BIN", "nodescope")?);
    command.args(args);
    for socket in sockets {
        command
            .arg("--server")
            .arg(format!("unix://{}", socket.display()));
    }
    command.status().context("running nodescope")
}

/// `nodescope observe -f` on all agents, to this terminal.
fn observe(agents: &[Agent]) -> Result<Child> {
    let mut argv = vec![binary("NODESCOPE_BIN", "nodescope")?];
    argv.extend(["observe".to_owned(), "--follow".to_owned()]);
    for agent in agents {
        let address = format!("unix://{}", agent.socket().display());
        argv.extend(["--server".to_owned(), address]);
    }
    spawn_here(&argv).context("running nodescope observe")
}

/// What the user sees first.
fn intro(lab: &Lab, took: Duration) -> String {
    let topology = lab.topology();
    let mut text = format!(
        "A cluster with {} and {} nodes, up in {:.1} s. Traffic plays every few seconds; each\n\
         line below is a flow as the agents saw it. Ctrl-C ends and removes everything.\n\n",
        topology.model.as_str(),
        topology.nodes.len(),
        took.as_secs_f64()
    );
    for (index, node) in topology.nodes.iter().enumerate() {
        text += &format!("  node{index}  {} {}\n", node.name, node.ip);
        for pod in lab.pods().iter().filter(|pod| pod.node() == index) {
            let (ip, interface) = (pod.ip(), pod.host_interface());
            text += &format!("         {} {ip} {interface}\n", pod.name());
        }
    }
    let seen = match topology.model {
        Model::AzureCni => "it sees pods, the other the node's address",
        Model::Kubenet | Model::Overlay => "both see the node's address",
    };
    text += &format!(
        "  vm     {} on the VNet, onprem {} behind it: {seen}\n\n\
         In another terminal:\n\
         \x20 cargo xtask lab -- observe --last 20 -o json\n\
         \x20 cargo xtask lab -- observe --follow --snat\n\
         \x20 cargo xtask lab -- node\n",
        topology.vm.ip(),
        topology.onprem.ip(),
    );
    if let Some(path) = lab.kubeconfig_path() {
        let path = path.display();
        text += &format!("  kubectl --kubeconfig {path} get pods -A -o wide\n");
    }
    text += &format!(
        "  nsenter --net={} conntrack -L\n",
        lab.node(0).path().display()
    );
    text
}

/// A flag that Ctrl-C, SIGTERM and SIGHUP set, instead of ending this process at once.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
                _ = signals.2.recv() => {}
            }
        });
        flag.store(true, Ordering::SeqCst);
    });
    Ok(stop)
}

/// `30s`, `5m`, `1h`, or seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit = |suffix, seconds| Some((text.strip_suffix(suffix)?, seconds));
    let (number, seconds) = unit("ms", 0.001)
        .or_else(|| unit("s", 1.0))
        .or_else(|| unit("m", 60.0))
        .or_else(|| unit("h", 3600.0))
        .unwrap_or((text, 1.0));
    number
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * seconds).ok())
        .ok_or_else(|| format!("'{text}' is no time: give 30s or 5m"))
}
