//! Processes in namespaces: they die with the lab's process, whatever happens to it.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getppid, kill_process, pidfd_open};

use super::Pauses;
use super::netns::Netns;

/// How long a command of `Netns::run` may take.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// A process that runs in a namespace, killed by its id when this is dropped. Its output goes
/// to two files.
#[derive(Debug)]
pub struct Proc {
    child: Child,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

/// How a command ended and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output of a command that succeeded; an error with what it said otherwise.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            let (out, err) = (self.stdout.trim(), self.stderr.trim());
            bail!("command ended with {}: {err} {out}", self.status);
        }
        Ok(self.stdout)
    }
}

impl Proc {
    /// Starts `argv` in `netns` with its output in `<base>.out` and `<base>.err`.
    pub fn start(netns: &Netns, argv: &[String], base: &Path) -> Result<Self> {
        let what = argv.join(" ");
        let stdout = base.with_extension("out");
        let stderr = base.with_extension("err");
        let mut command = wrapped(Some(netns), argv)?;
        command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).with_context(|| format!("{}", stdout.display()))?)
            .stderr(File::create(&stderr)?);
        let child = spawn(command).with_context(|| format!("starting {what}"))?;
        Ok(Self {
            child,
            what,
            stdout,
            stderr,
            status: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.wait(Duration::ZERO), Ok(None))
    }

    /// Waits for its end; none when it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = wait_child(&mut self.child, timeout)?;
        }
        Ok(self.status)
    }

    /// Sends `signal`. A process that is gone already is not signalled, and no error.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.is_running() {
            kill_process(pid_of(&self.child)?, signal)
                .with_context(|| format!("signalling {}", self.what))?;
        }
        Ok(())
    }

    /// Sends `signal` and waits for the end, at most `timeout`.
    pub fn end_with(&mut self, signal: Signal, timeout: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(timeout)?
            .ok_or_else(|| anyhow!("{} still runs {timeout:?} after {signal:?}", self.what))
    }

    /// What it wrote to standard output until now.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it wrote to standard error until now.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// Waits until one of the outputs holds `text`; an error when it ends before.
    pub fn wait_output(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        let mut pauses = Pauses::new();
        loop {
            // Looked at before the output: what a process says before its end counts.
            let running = self.is_running();
            if self.stdout().contains(text) || self.stderr().contains(text) {
                return Ok(());
            }
            let (out, err) = (self.stdout(), self.stderr());
            if !running {
                bail!("{} ended early: {} {}", self.what, err.trim(), out.trim());
            }
            if start.elapsed() > timeout {
                bail!("{} has not said '{text}' in {timeout:?}: {err}", self.what);
            }
            pauses.pause();
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.end_with(Signal::KILL, Duration::from_secs(2));
    }
}

impl Netns {
    /// Runs `argv` inside to its end, at most a minute.
    pub fn run<S: AsRef<str>>(&self, argv: impl IntoIterator<Item = S>) -> Result<Finished> {
        let argv: Vec<String> = argv.into_iter().map(|s| s.as_ref().to_owned()).collect();
        let dir = tempfile::tempdir()?;
        let mut process = Proc::start(self, &argv, &dir.path().join("run"))?;
        let Some(status) = process.wait(RUN_TIMEOUT)? else {
            bail!("{} still runs after {RUN_TIMEOUT:?}", argv.join(" "));
        };
        Ok(Finished {
            status,
            stdout: process.stdout(),
            stderr: process.stderr(),
        })
    }

    /// Runs a program of the lab binary (`http-get`, `udp-send`…) inside to its end.
    pub fn run_lab<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.run(lab_command(args)?)
    }
}

/// The command line of a program of the lab binary.
pub fn lab_command<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Result<Vec<String>> {
    let mut argv = vec![binary("NODESCOPE_LAB_BIN", "nodescope-lab")?];
    argv.extend(args.into_iter().map(|s| s.as_ref().to_owned()));
    Ok(argv)
}

/// The path of a binary of this workspace: `$variable`, else beside the running program or
/// one directory up (test binaries live in `deps/`).
pub fn binary(variable: &str, name: &str) -> Result<String> {
    if let Ok(path) = std::env::var(variable) {
        return Ok(path);
    }
    let me = std::env::current_exe().context("finding the running program")?;
    me.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .and_then(|path| path.to_str().map(str::to_owned))
        .ok_or_else(|| {
            anyhow!(
                "no {name} beside {}: build it, or set {variable}",
                me.display()
            )
        })
}

/// The child side of [`Proc::start`]: ties its life to the parent's, enters the namespace,
/// if one is given, and becomes the command. Returns only when that fails.
pub fn exec_in(netns: Option<&str>, parent: u32, argv: &[String]) -> anyhow::Error {
    let prepare = || -> Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        let now = getppid().map(|pid| pid.as_raw_nonzero().get());
        if now != i32::try_from(parent).ok() {
            bail!("the lab's process {parent} is gone");
        }
        netns.map_or(Ok(()), |name| Netns::named(name).enter_for_good())
    };
    if let Err(error) = prepare() {
        return error;
    }
    let Some((program, args)) = argv.split_first() else {
        return anyhow!("exec-in: give a command");
    };
    let error = Command::new(program).args(args).exec();
    anyhow!("cannot run {program}: {error}")
}

/// Starts `argv` outside the lab's namespaces, with this process's input and output.
pub(super) fn spawn_here(argv: &[String]) -> Result<Child> {
    spawn(wrapped(None, argv)?)
}

/// `argv` behind the lab binary's `exec-in`, in a process group of its own: a Ctrl-C at the
/// terminal reaches the lab alone, which then ends its children in order.
fn wrapped(netns: Option<&Netns>, argv: &[String]) -> Result<Command> {
    let mut command = Command::new(binary("NODESCOPE_LAB_BIN", "nodescope-lab")?);
    command.arg("exec-in");
    if let Some(netns) = netns {
        command.args(["--netns", netns.name()]);
    }
    command
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(argv)
        .process_group(0);
    Ok(command)
}

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a process from a thread that lives as long as this process.
///
/// The kernel sends the parent-death signal when the *thread* that forked ends, so a process
/// started from a test's thread would die with that thread.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, result) = channel();
    spawner
        .lock()
        .map_err(|_| anyhow!("the spawner is poisoned"))?
        .send((command, answer))
        .map_err(|_| anyhow!("the spawner is gone"))?;
    Ok(result.recv().context("the spawner is gone")??)
}

fn wait_child(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let pidfd = pidfd_open(pid_of(child)?, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(timeout).context("timeout out of range")?;
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))?;
    Ok(child.try_wait()?)
}

fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("a process id out of range")
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
