//! An agent in a lab, as it runs by default, and what it takes of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nodescope_tests::lab::{Lab, Proc, binary};
use rustix::process::Signal;

/// How long it may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A lab without an API server: names are looked up in vain either way.
///
/// # Errors
/// It cannot be built.
pub fn lab() -> anyhow::Result<Lab> {
    // An earlier run that was killed may have left one.
    for name in nodescope_tests::lab::clean_stale()? {
        eprintln!("  removed lab {name}, whose process is gone");
    }
    Lab::builder("bench").simulated().without_api().start()
}

/// An agent on node 0; killed when dropped.
pub struct Agent {
    process: Proc,
    socket: PathBuf,
}

impl Agent {
    /// Starts it, with its defaults but for `extra`, and waits until its hooks are attached.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(lab: &Lab, extra: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(lab, Path::new("none"), extra)
    }

    /// The same with an API server.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_with(lab: &Lab, kubeconfig: &Path, extra: &[&str]) -> anyhow::Result<Self> {
        let socket = lab.run_dir().join("bench.sock");
        let mut argv = vec![binary("NODESCOPE_BIN", "nodescope")?];
        let fixed = ["agent", "--node-name", "node0", "--kubeconfig"];
        argv.extend(fixed.map(str::to_owned));
        argv.push(kubeconfig.display().to_string());
        argv.extend(extra.iter().map(|word| (*word).to_owned()));
        argv.extend(["--socket".to_owned(), socket.display().to_string()]);
        // As by default, and yet nothing of it is left for a round without an agent.
        argv.extend(["--bpffs".to_owned(), lab.bpffs()?.display().to_string()]);
        argv.push("--detach-on-exit".to_owned());
        let mut process = lab.spawn(&lab.node(0), argv)?;
        process.wait_output("observing", PATIENCE)?;
        let agent = Self { process, socket };
        agent.wait_attached()?;
        Ok(agent)
    }

    /// The hooks are there once the node is described with one.
    fn wait_attached(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let out = std::process::Command::new(binary("NODESCOPE_BIN", "nodescope")?)
                .args(["node", "--server", &self.server()])
                .output()?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            if out.status.success() && ["tcx", "clsact"].iter().any(|how| text.contains(how)) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("the agent attached to nothing within {PATIENCE:?}: {text}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its socket, as `--server` takes it.
    pub fn server(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Ends it and waits.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.process.end_with(Signal::TERM, PATIENCE)?;
        Ok(())
    }

    /// Time that its threads spent on a processor, in the kernel and outside.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let tasks = format!("/proc/{}/task", self.process.pid());
        let mut sum = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            // Documentation/scheduler/sched-stats.rst: the first number is nanoseconds on a CPU.
            let first = text
                .split(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok());
            sum += first.unwrap_or(0);
        }
        Ok(Duration::from_nanos(sum))
    }

    /// What it says of its node.
    ///
    /// # Errors
    /// It does not answer.
    pub fn describe(&self) -> anyhow::Result<serde_json::Value> {
        let out = std::process::Command::new(binary("NODESCOPE_BIN", "nodescope")?)
            .args(["node", "-o", "json", "--server", &self.server()])
            .output()?;
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// Its resident memory in MiB.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident(&self) -> anyhow::Result<f64> {
        self.memory("VmRSS:")
    }

    /// The most that its resident memory was, in MiB.
    ///
    /// # Errors
    /// It is gone.
    pub fn peak(&self) -> anyhow::Result<f64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.process.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("no {field} in {path}"))? / 1024.0)
    }

    /// Its share of a processor over `length`, in percent.
    ///
    /// # Errors
    /// It is gone.
    pub fn share(&self, length: Duration) -> anyhow::Result<f64> {
        let (before, start) = (self.cpu()?, Instant::now());
        std::thread::sleep(length);
        let used = self.cpu()?.saturating_sub(before);
        Ok(used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0)
    }
}
