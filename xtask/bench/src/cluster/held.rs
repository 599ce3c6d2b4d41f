//! The lab's API server with a large cluster's objects, in a process of its own: what it takes of
//! the machine is not the agent's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nodescope_tests::apiserver::ApiServer;
use nodescope_tests::lab::{Lab, Proc};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::objects::{self, NODES, PODS, REPLICAS, SERVICES};
use super::pods::{self, PodAt};

/// What its clients show.
const TOKEN: &str = "bench";
/// Changes of pods in a second.
pub const CHANGES: u32 = 100;
/// Of so many changes two are a pod that is replaced: deleted, and made anew.
const REPLACED: usize = 10;
/// How long it may take to make the objects.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the process says when it has them.
const READY: &str = "holding the cluster";

/// How a process holds a cluster.
#[derive(clap::Args, Debug)]
pub struct Hold {
    /// Where the kubeconfig goes
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Hold no objects but those that every cluster has
    #[arg(long)]
    empty: bool,
}

/// Serves until killed. SIGUSR1 begins the churn, the next one ends it.
///
/// # Errors
/// The server does not start, or the kubeconfig cannot be written.
pub fn hold(options: &Hold) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut switch = signal(SignalKind::user_defined1())?;
        let server = ApiServer::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), TOKEN)?;
        if options.empty {
            server.load(vec![objects::node(0)])?;
        } else {
            fill(&server)?;
        }
        std::fs::write(&options.kubeconfig, server.kubeconfig(&server.url()))?;
        println!("{READY}");
        let mut cluster = Churn::default();
        loop {
            switch.recv().await;
            tokio::select! {
                done = cluster.run(&server) => done?,
                _ = switch.recv() => {}
            }
        }
    })
}

fn fill(server: &ApiServer) -> anyhow::Result<()> {
    for number in 0..NODES {
        server.load(vec![objects::node(number)])?;
    }
    let first = |number| {
        let generation = 0;
        pods::pod(PodAt { number, generation }, 0)
    };
    for number in 0..PODS {
        server.load(vec![first(number)])?;
    }
    for number in 0..SERVICES {
        let slice = objects::slice(number, &[0; REPLICAS]);
        server.load(vec![objects::service(number), slice])?;
    }
    Ok(())
}

/// Pods that change.
struct Churn {
    /// The generation of each pod.
    generations: Vec<usize>,
    /// Changes so far.
    changes: usize,
}

impl Default for Churn {
    fn default() -> Self {
        Self {
            generations: vec![0; PODS],
            changes: 0,
        }
    }
}

impl Churn {
    /// Changes pods at a steady pace, for ever.
    async fn run(&mut self, server: &ApiServer) -> anyhow::Result<()> {
        let mut pace = interval(Duration::from_secs(1) / CHANGES);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            pace.tick().await;
            // One after the other, far from one another.
            let number = self.changes * 4_111 % PODS;
            self.changes += 1;
            if self.changes.is_multiple_of(REPLACED) {
                self.replace(server, number)?;
                pace.tick().await;
                self.changes += 1;
            } else {
                let generation = self.generations[number];
                let at = PodAt { number, generation };
                server.load(vec![pods::pod(at, self.changes)])?;
            }
        }
    }

    fn replace(&mut self, server: &ApiServer, number: usize) -> anyhow::Result<()> {
        let generation = self.generations[number];
        let old = PodAt { number, generation };
        server
            .store()
            .delete("pods", &old.namespace(), &old.name())
            .with_context(|| format!("deleting {}", old.name()))?;
        self.generations[number] += 1;
        let new = PodAt {
            number,
            generation: generation + 1,
        };
        let service = number / REPLICAS;
        let replicas = service * REPLICAS..(service + 1) * REPLICAS;
        let slice = objects::slice(service, &self.generations[replicas]);
        server.load(vec![pods::pod(new, 0), slice])?;
        Ok(())
    }
}

/// The process, in the namespace of the agent's node, where the server listens on the loopback.
pub struct Held {
    process: Proc,
    kubeconfig: PathBuf,
}

impl Held {
    /// Starts it and waits until it has its objects.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(lab: &Lab, empty: bool) -> anyhow::Result<Self> {
        let kubeconfig = lab.run_dir().join("bench-kubeconfig");
        let own = std::env::current_exe()?.display().to_string();
        let mut argv = vec![own, "hold-cluster".to_owned(), "--kubeconfig".to_owned()];
        argv.push(kubeconfig.display().to_string());
        argv.extend(empty.then(|| "--empty".to_owned()));
        let started = Instant::now();
        let mut process = lab.spawn(&lab.node(0), argv)?;
        process.wait_output(READY, PATIENCE)?;
        if !empty {
            let seconds = started.elapsed().as_secs();
            eprintln!("  {NODES} nodes, {PODS} pods, {SERVICES} services made in {seconds} s");
        }
        Ok(Self {
            process,
            kubeconfig,
        })
    }

    /// Credentials for it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Begins the churn, or ends it.
    ///
    /// # Errors
    /// The process is gone.
    pub fn switch_churn(&mut self) -> anyhow::Result<()> {
        if !self.process.is_running() {
            bail!("the API server is gone: {}", self.process.stderr());
        }
        self.process.signal(Signal::USR1)
    }
}
