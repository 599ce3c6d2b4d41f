//! Control planes of this process: handed out, given back, handed out again.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;

use super::client::{ApiClient, collection};
use super::keeper::Announcement;
use crate::lab::{Netns, lab_command, names};

/// Those that no lab uses now. Each ends when this process does: its keeper's input ends then.
static IDLE: Mutex<Vec<Keeper>> = Mutex::new(Vec::new());

/// Held while one starts: several at once would only be slower, each of them, and an API server
/// that takes too long ends.
static STARTING: Mutex<()> = Mutex::new(());

/// How many wait at most for a lab: each takes half a gigabyte of memory, and five seconds of two
/// cores to start. Labs of different models have different ranges of ClusterIPs.
const MOST_IDLE: usize = 3;

/// Kinds that a lab, or a test in it, makes.
const KINDS: [(&str, &str); 9] = [
    ("v1", "Service"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "Pod"),
    ("v1", "Node"),
    ("v1", "ConfigMap"),
    ("v1", "Endpoints"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
];

/// What the API server itself keeps: its own service, and what it tells its extensions.
const KEPT: [&str; 2] = [
    "/services/kubernetes",
    "/configmaps/extension-apiserver-authentication",
];

/// A keeper process and its control plane.
#[derive(Debug)]
pub struct Keeper {
    name: String,
    child: Child,
    /// The range of ClusterIPs, which an API server does not change while it runs.
    services: Ipv4Net,
    /// What it said when it was ready.
    pub announcement: Announcement,
}

impl Keeper {
    /// A control plane whose ClusterIPs are of `services`, without objects of an earlier lab.
    pub fn take(services: Ipv4Net) -> Result<Self> {
        if let Some(keeper) = Self::take_idle(services)? {
            return Ok(keeper);
        }
        let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        // One may have been given back in the meantime.
        if let Some(keeper) = Self::take_idle(services)? {
            return Ok(keeper);
        }
        // An API server that is very slow to start gives up by itself: a second one may not.
        Self::start(services).or_else(|first| {
            Self::start(services).map_err(|error| error.context(format!("at first: {first:#}")))
        })
    }

    /// One that no lab uses, and that still runs.
    fn take_idle(services: Ipv4Net) -> Result<Option<Self>> {
        loop {
            let fits = {
                let mut idle = idle();
                let fit = idle.iter().position(|keeper| keeper.services == services);
                fit.map(|index| idle.remove(index))
            };
            let Some(mut keeper) = fits else {
                return Ok(None);
            };
            if keeper.child.try_wait()?.is_none() {
                wipe(&keeper.admin()?)?;
                return Ok(Some(keeper));
            }
        }
    }

    /// Gives it back, for the next lab.
    pub fn give_back(self) {
        let mut idle = idle();
        idle.push(self);
        // The one that nobody wanted for longest goes. Its end takes a while.
        let surplus = (idle.len() > MOST_IDLE).then(|| idle.remove(0));
        drop(idle);
        drop(surplus);
    }

    /// The namespace of its servers.
    pub fn control(&self) -> Netns {
        Netns::named(names::namespace(&self.name, "control"))
    }

    /// The URL of the API server on the machine.
    pub fn url(&self) -> String {
        format!("https://{}", self.announcement.address)
    }

    /// A client that may do everything.
    pub fn admin(&self) -> Result<ApiClient> {
        let credentials = &self.announcement.credentials;
        ApiClient::new(&credentials.kubeconfig(&self.url(), &credentials.admin))
    }

    fn start(services: Ipv4Net) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("api{}x{number}", std::process::id());
        let range = services.to_string();
        let argv = lab_command(["control-plane", "--name", &name, "--services", &range])?;
        // In a process group of its own: a Ctrl-C at the terminal is for the lab, and the keeper
        // ends after it.
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("starting the control plane's keeper")?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.is_empty() {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut said)?;
            }
            child.wait()?;
            bail!("the control plane did not start: {}", said.trim());
        }
        let announcement = serde_json::from_str(&line)
            .with_context(|| format!("the control plane's keeper said {line:?}"))?;
        Ok(Self {
            name,
            child,
            services,
            announcement,
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The end of its input is what it waits for.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Removes the objects of an earlier lab.
fn wipe(admin: &ApiClient) -> Result<()> {
    for (version, kind) in KINDS {
        for object in admin.list(&collection(version, kind, None))? {
            let metadata = &object["metadata"];
            let path = collection(version, kind, metadata["namespace"].as_str());
            let name = metadata["name"].as_str().unwrap_or_default();
            let path = format!("{path}/{name}");
            if !KEPT.iter().any(|kept| path.ends_with(kept)) {
                admin.delete(&path)?;
            }
        }
    }
    Ok(())
}

fn idle() -> std::sync::MutexGuard<'static, Vec<Keeper>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}
