//! Rounds: what is played is drawn before anything of it happens, so that a seed tells it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use rustix::process::Signal;

use super::Soak;
use super::agents::Node;
use super::report::Story;
use crate::apiserver::Fault;
use crate::lab::{Agent, Lab, PodSpec, binary};

/// Pods beside those of the lab, at most.
const MOST_EXTRA: usize = 24;

/// What is on the wire in a round.
#[derive(Clone, Copy, Debug)]
enum Traffic {
    /// What the lab plays: pods, services, names, the outside.
    Round,
    /// Megabytes, in packets that offload joins.
    Bulk,
    /// Many conversations of a packet each.
    Flood,
    /// Many short connections.
    Short,
    /// Echo requests.
    Echoes,
    /// Frames that are no packets.
    Malformed,
}

/// What becomes of the pods.
#[derive(Clone, Copy, Debug)]
enum Churn {
    None,
    Add { pods: usize, node: usize },
    Remove { pods: usize },
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// The agent of a node is killed; the next comes after so many milliseconds.
    Killed {
        node: usize,
        pause: u64,
    },
    /// The same, told to stop.
    Stopped {
        node: usize,
        pause: u64,
    },
    /// The next agent has a table of another size.
    Resized {
        node: usize,
        entries: usize,
    },
    /// It stands still for so many milliseconds.
    Frozen {
        node: usize,
        pause: u64,
    },
    /// It is told to open its log anew.
    HungUp {
        node: usize,
    },
    /// The API server answers wrongly for so many milliseconds.
    Api {
        fault: Fault,
        pause: u64,
    },
    /// Its watches end.
    Watches {
        how: usize,
    },
    /// Somebody reads the flows, and stops to.
    SlowReader {
        node: usize,
        pause: u64,
    },
    /// Many ask at once.
    Asked {
        node: usize,
    },
}

/// A round.
#[derive(Debug)]
struct Plan {
    traffic: Vec<Traffic>,
    churn: Churn,
    trouble: Trouble,
}

impl Plan {
    fn draw(rng: &mut Rng, nodes: usize, extra: usize) -> Self {
        use Traffic::{Bulk, Echoes, Flood, Malformed, Round, Short};
        let mut traffic = vec![Bulk, Flood, Short, Echoes, Malformed];
        rng.shuffle(&mut traffic);
        traffic.truncate(rng.usize(1..=3));
        traffic.push(Round);
        let churn = match rng.usize(0..3) {
            0 => Churn::None,
            1 if extra < MOST_EXTRA => Churn::Add {
                pods: rng.usize(1..=8),
                node: rng.usize(0..nodes),
            },
            _ => Churn::Remove {
                pods: rng.usize(1..=8),
            },
        };
        let (node, pause) = (rng.usize(0..nodes), rng.u64(100..2500));
        let trouble = match rng.usize(0..11) {
            0 => Trouble::None,
            1 | 2 => Trouble::Killed { node, pause },
            3 => Trouble::Stopped { node, pause },
            4 => {
                let entries = [2_000, 20_000, 100_000][rng.usize(0..3)];
                Trouble::Resized { node, entries }
            }
            5 => Trouble::Frozen { node, pause },
            6 => Trouble::HungUp { node },
            7 => {
                let all = [
                    Fault::Code(500),
                    Fault::Code(429),
                    Fault::Garbage,
                    Fault::Hang,
                ];
                let fault = all[rng.usize(0..all.len())];
                Trouble::Api { fault, pause }
            }
            8 => Trouble::Watches {
                how: rng.usize(0..3),
            },
            9 => Trouble::SlowReader { node, pause },
            _ => Trouble::Asked { node },
        };
        Self {
            traffic,
            churn,
            trouble,
        }
    }
}

impl Soak {
    /// Plays a round: all of it at once.
    pub(super) fn round(&mut self) -> Result<()> {
        let plan = Plan::draw(&mut self.rng, self.nodes.len(), self.extra.len());
        let Self {
            lab,
            nodes,
            story,
            extra,
            added,
            gone,
            ..
        } = self;
        story.tell(format!("{:?}, {:?}", plan.traffic, plan.churn));
        thread::scope(|scope| -> Result<()> {
            let lab = &*lab;
            let traffic: Vec<_> = plan
                .traffic
                .iter()
                .map(|one| (one, scope.spawn(|| one.play(lab))))
                .collect();
            let churn = scope.spawn(|| plan.churn.play(lab, extra, added, gone));
            let trouble = plan.trouble.play(lab, nodes, story);
            for (one, thread) in traffic {
                let outcome = thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a player panicked"))?;
                outcome.with_context(|| format!("{one:?} was disturbed"))?;
            }
            let churn = churn
                .join()
                .map_err(|_| anyhow::anyhow!("a player panicked"))?;
            churn.with_context(|| format!("{:?}", plan.churn))?;
            trouble.with_context(|| format!("{:?}", plan.trouble))
        })?;
        self.alive()
    }
}

impl Traffic {
    /// Plays it to its end. Nothing of it may fail, whatever becomes of the agents.
    fn play(self, lab: &Lab) -> Result<()> {
        let (web, web2, api) = (lab.pod("web")?, lab.pod("web2")?, lab.pod("api")?);
        let onprem = lab.topology().onprem.ip();
        match self {
            Self::Round => {
                for played in lab.play()? {
                    ensure!(
                        played.error.is_none(),
                        "{}: {}",
                        played.play.what,
                        played.error.unwrap_or_default()
                    );
                }
            }
            Self::Bulk => {
                for (from, to) in [(&web, web2.ip()), (&web2, api.ip()), (&api, onprem)] {
                    let url = format!("http://{to}:8080/?size=3000000");
                    from.run_lab(["http-get", &url])?.success()?;
                }
            }
            Self::Flood => {
                let to = format!("{onprem}:20000");
                let flood = ["udp-flood", &to, "--flows", "2000", "--seconds", "1"];
                web.run_lab(flood)?.success()?;
            }
            Self::Short => {
                let to = format!("{}:8080", web2.ip());
                let burst = ["tcp-burst", &to, "--count", "400", "--parallel", "8"];
                api.run_lab(burst)?.success()?;
            }
            Self::Echoes => {
                let to = api.ip().to_string();
                let ping = ["ping", "-q", "-c", "50", "-i", "0.02", "-W", "5", &to];
                web2.run(ping)?.success()?;
            }
            Self::Malformed => {
                // An EtherType for local experiments (IEEE 802), and an IPv4 packet that ends in
                // its header.
                let frames = [
                    "ffffffffffff02000000000188b50000",
                    "ffffffffffff020000000001080045000014",
                ];
                let send = ["raw-send", "eth0", frames[0], frames[1], "--count", "20"];
                web.run_lab(send)?.success()?;
            }
        }
        Ok(())
    }
}

impl Churn {
    fn play(
        self,
        lab: &Lab,
        extra: &mut Vec<String>,
        added: &mut u32,
        gone: &mut Vec<String>,
    ) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Add { pods, node } => {
                let to = format!("http://{}:8080/", lab.pod("web2")?.ip());
                let mut specs = Vec::new();
                for _ in 0..pods {
                    *added += 1;
                    let name = format!("extra{added}");
                    // Three workloads, so that series are not many.
                    let app = format!("extra-{}", *added % 3);
                    let fetch = ["http-get", to.as_str(), "--count", "2"];
                    specs.push(PodSpec::new(&name, node).app(&app).entrypoint(&fetch));
                }
                for pod in lab.add_pods(specs)? {
                    extra.push(pod.short().to_owned());
                    lab.finished(pod.short())?.success()?;
                }
                Ok(())
            }
            Self::Remove { pods } => {
                for _ in 0..pods.min(extra.len()) {
                    let name = extra.remove(0);
                    gone.push(lab.pod(&name)?.host_interface().to_owned());
                    lab.remove_pod(&name)?;
                }
                Ok(())
            }
        }
    }
}

impl Trouble {
    fn play(self, lab: &Lab, nodes: &mut [Node], story: &Story) -> Result<()> {
        if matches!(self, Self::None) {
            return Ok(());
        }
        story.fault(format!("{self:?}"));
        let wait = |pause| thread::sleep(Duration::from_millis(pause));
        let api = || lab.api().context("a lab without an API server");
        match self {
            Self::None => {}
            Self::Killed { node, pause } => {
                wait(pause / 4);
                nodes[node].replace(lab, Signal::KILL, Duration::from_millis(pause), &[])?;
            }
            Self::Stopped { node, pause } => {
                nodes[node].replace(lab, Signal::TERM, Duration::from_millis(pause), &[])?;
            }
            Self::Resized { node, entries } => {
                let flags = ["--max-connections", &entries.to_string()];
                nodes[node].replace(lab, Signal::TERM, Duration::ZERO, &flags)?;
            }
            Self::Frozen { node, pause } => {
                let process = nodes[node].agent().process();
                process.signal(Signal::STOP)?;
                wait(pause);
                process.signal(Signal::CONT)?;
            }
            Self::HungUp { node } => nodes[node].agent().process().signal(Signal::HUP)?,
            Self::Api { fault, pause } => {
                let faults = api()?.faults();
                faults.set(fault);
                // Whoever watched has to ask again.
                faults.drop_watches();
                wait(pause);
                faults.clear();
            }
            Self::Watches { how } => {
                let faults = api()?.faults();
                match how {
                    0 => faults.drop_watches(),
                    1 => faults.close_watches(),
                    _ => faults.expire_watches(),
                }
            }
            Self::SlowReader { node, pause } => {
                let socket = format!("unix://{}", nodes[node].its_agent().socket().display());
                let nodescope = binary("NODESCOPE_BIN", "nodescope")?;
                let observe = [
                    nodescope.as_str(),
                    "observe",
                    "--follow",
                    "--server",
                    &socket,
                ];
                let mut reader = lab.spawn(&lab.node(node), observe)?;
                wait(pause / 4);
                reader.signal(Signal::STOP)?;
                wait(pause);
            }
            Self::Asked { node } => asked(nodes[node].its_agent())?,
        }
        Ok(())
    }
}

/// Every command at once, each of which must be answered.
fn asked(agent: &Agent) -> Result<()> {
    let commands = ["node", "nat", "probes", "services", "drops", "observe"];
    thread::scope(|scope| {
        let running: Vec<_> = commands
            .iter()
            .map(|command| scope.spawn(|| agent.cli(&[*command, "-o", "json"])))
            .collect();
        for (command, thread) in commands.iter().zip(running) {
            let output = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "nodescope {command}: {error}");
        }
        Ok(())
    })
}
