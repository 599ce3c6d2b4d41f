//! The agent on a node, as a child process in the node's namespace.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::netns::Netns;
use super::process::{Proc, binary};
use super::{Lab, Pauses};
use crate::deployed;

/// How long an agent gets to load its programs and become ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an agent gets to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the agent's HTTP endpoint listens inside the node.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9817);

/// An agent that runs; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Proc,
    netns: Netns,
    socket: PathBuf,
    flow_log: PathBuf,
}

impl Lab {
    /// Starts the agent on node `index`, with the rights that the DaemonSet gives it, and waits
    /// until it is ready. `extra` comes last on its command line.
    pub fn start_agent(&self, index: usize, extra: &[&str]) -> Result<Agent> {
        self.start_agent_under(index, &[], extra)
    }

    /// The same under another command that becomes the agent than the one that takes rights away.
    pub fn start_agent_under(&self, index: usize, under: &[&str], extra: &[&str]) -> Result<Agent> {
        let mut agent = self.launch(index, under, extra, true)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// As [`Lab::start_agent`], with no flow log: by default an agent writes none, and in a flood
    /// it is most of the work.
    pub fn start_agent_without_log(&self, index: usize, extra: &[&str]) -> Result<Agent> {
        let mut agent = self.launch(index, &[], extra, false)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts the agent on node `index` without waiting: for one that is expected to fail.
    pub fn launch_agent(&self, index: usize, extra: &[&str]) -> Result<Agent> {
        self.launch(index, &[], extra, true)
    }

    fn launch(&self, index: usize, under: &[&str], extra: &[&str], log: bool) -> Result<Agent> {
        let node = self
            .topology
            .nodes
            .get(index)
            .with_context(|| format!("the lab has no node {index}"))?;
        let netns = self.node(index);
        let socket = self.socket(index);
        let flow_log = self
            .log_base(&format!("node{index}-flows"))
            .with_extension("jsonl");
        let kubeconfig = self
            .node_kubeconfig_path()
            .map_or("none".to_owned(), |path| path.display().to_string());
        let mut argv: Vec<String> = match under {
            [] => deployed::as_deployed()?,
            _ => under.iter().map(|word| (*word).to_owned()).collect(),
        };
        argv.extend([binary("NODESCOPE_BIN", "nodescope")?, "agent".to_owned()]);
        for (flag, value) in [
            ("--node-name", node.name.as_str()),
            ("--kubeconfig", &kubeconfig),
            ("--socket", &socket.to_string_lossy()),
            ("--listen-metrics", &METRICS.to_string()),
            ("--flow-log", &flow_log.to_string_lossy()),
            // Nothing outlives a lab.
            ("--bpffs", "none"),
        ] {
            // A flag given by the caller replaces the lab's own.
            if !extra.contains(&flag) && (log || flag != "--flow-log") {
                argv.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        argv.extend(extra.iter().map(|arg| (*arg).to_owned()));
        Ok(Agent {
            process: self.spawn(&netns, argv)?,
            netns,
            socket,
            flow_log,
        })
    }

    /// The agent of node `index` that `argv` starts, with no flow log and this socket; whoever
    /// starts it waits for it.
    pub fn adopt_agent(&self, index: usize, argv: Vec<String>, socket: PathBuf) -> Result<Agent> {
        let netns = self.node(index);
        Ok(Agent {
            process: self.spawn(&netns, argv)?,
            flow_log: socket.with_extension("jsonl"),
            netns,
            socket,
        })
    }

    /// Where the agent of node `index` listens for the command line.
    pub fn socket(&self, index: usize) -> PathBuf {
        socket_in(self.run_dir(), index)
    }
}

/// The socket of node `index` of the lab whose directory is `run_dir`.
pub(super) fn socket_in(run_dir: &Path, index: usize) -> PathBuf {
    run_dir.join(format!("node{index}.sock"))
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// What it logged to standard error until now.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Its process, for signals and exit codes.
    pub fn process(&mut self) -> &mut Proc {
        &mut self.process
    }

    /// Its gRPC socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it writes its flow records.
    pub fn flow_log(&self) -> &Path {
        &self.flow_log
    }

    /// Waits until `/readyz` says 200; an error with its log when it ends before.
    pub fn wait_ready(&mut self) -> Result<()> {
        let start = std::time::Instant::now();
        let mut pauses = Pauses::new();
        loop {
            if let Ok((200, _)) = self.http("/readyz") {
                return Ok(());
            }
            if let Some(status) = self.process.wait(Duration::ZERO)? {
                bail!(
                    "the agent ended with {status} before it was ready: {}",
                    self.log().trim()
                );
            }
            ensure!(
                start.elapsed() < START_TIMEOUT,
                "the agent is not ready after {START_TIMEOUT:?}: {}",
                self.log().trim()
            );
            pauses.pause();
        }
    }

    /// Kills it as the kernel's out-of-memory killer would, and waits for its end.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.end_with(Signal::KILL, STOP_TIMEOUT)?;
        Ok(())
    }

    /// Asks it to end, as the kubelet does, and waits. The last flows are in its log then.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.end_with(Signal::TERM, STOP_TIMEOUT)?;
        ensure!(
            status.success(),
            "the agent ended with {status}: {}",
            self.log().trim()
        );
        Ok(())
    }

    /// The flow records that it wrote until now.
    pub fn flows(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.flow_log).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("flow record '{line}'")))
            .collect()
    }

    /// Its metrics, in the text format.
    pub fn metrics(&self) -> Result<String> {
        match self.http("/metrics")? {
            (200, body) => Ok(body),
            (status, body) => bail!("/metrics answered {status}: {body}"),
        }
    }

    /// GETs `path` of its HTTP endpoint: status and body.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        self.netns.http(METRICS, path)
    }

    /// Runs `nodescope <args> --server unix://<its socket>` to its end.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        Command::new(binary("NODESCOPE_BIN", "nodescope")?)
            .args(args)
            .arg("--server")
            .arg(format!("unix://{}", self.socket.display()))
            .stdin(Stdio::null())
            .output()
            .context("running nodescope")
    }
}
