//! A network namespace: made and removed by `ip netns`, entered by a thread.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps namespaces by name (iproute2, `NETNS_RUN_DIR`).
const NETNS_DIR: &str = "/run/netns";

/// A named network namespace. Only a name: dropping it removes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The namespace called `name`, whether it exists or not.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace.
    ///
    /// Sockets and processes that `work` makes stay in the namespace; the mount namespace is
    /// the machine's, so `/sys/class/net` shows the machine's interfaces, not these.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path())
            .with_context(|| format!("network namespace {} does not exist", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter_file(&file)?;
                Ok::<T, io::Error>(work())
            });
            match thread.join() {
                Ok(done) => done.with_context(|| format!("entering {}", self.name)),
                Err(_) => Err(anyhow!("the thread inside {} panicked", self.name)),
            }
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter_for_good(&self) -> Result<()> {
        let file = File::open(self.path())
            .with_context(|| format!("network namespace {} does not exist", self.name))?;
        enter_file(&file).with_context(|| format!("entering {}", self.name))
    }

    /// Runs a short system command inside, `input` on its standard input, to its end.
    pub fn tool(&self, argv: &[&str], input: &str) -> Result<Output> {
        self.enter(|| run_tool(argv, input))?
            .with_context(|| format!("in {}", self.name))
    }

    /// Runs `ip -batch` with `lines` inside; the first line that fails ends it.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.tool(&["ip", "-batch", "-"], &joined(lines))?;
        Ok(())
    }

    /// The output of an `ip -j` command inside, as JSON.
    pub fn ip_json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let argv = [&["ip", "-j"], args].concat();
        let out = self.tool(&argv, "")?;
        serde_json::from_slice(&out.stdout)
            .with_context(|| format!("reading the output of {}", argv.join(" ")))
    }

    /// Sets kernel parameters (`net.ipv4.ip_forward` style keys) inside.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/{}", key.replace('.', "/"));
                fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
            }
            Ok(())
        })?
    }

    /// Processes inside, by their main thread, the calling process left out.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(inode) = fs::metadata(self.path()).map(|file| file.ino()) else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != std::process::id())
            .filter(|pid| {
                fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net.ino() == inode)
            })
            .collect()
    }
}

/// Makes the namespaces called `names`, loopback up, IPv6 off.
///
/// IPv6 is off because router solicitations and duplicate address detection are packets that
/// nobody asked for, and tests count packets exactly.
pub fn create(names: &[String]) -> Result<()> {
    let lines: Vec<String> = names.iter().map(|n| format!("netns add {n}")).collect();
    run_tool(&["ip", "-batch", "-"], &joined(&lines)).context("making network namespaces")?;
    for name in names {
        Netns::named(name).sysctls(&[
            ("net.ipv6.conf.all.disable_ipv6", "1"),
            ("net.ipv6.conf.default.disable_ipv6", "1"),
        ])?;
    }
    Ok(())
}

/// Removes the namespaces called `names`, with the interfaces in them.
pub fn remove(names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = names.iter().map(|n| format!("netns del {n}")).collect();
    run_tool(&["ip", "-force", "-batch", "-"], &joined(&lines))
        .context("removing network namespaces")?;
    Ok(())
}

/// Names of the existing namespaces that start with `prefix`.
pub fn with_prefix(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

fn enter_file(file: &File) -> io::Result<()> {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn joined(lines: &[String]) -> String {
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// Runs a system command to its end; a failing one is an error with what it said.
fn run_tool(argv: &[&str], input: &str) -> Result<Output> {
    let Some((program, args)) = argv.split_first() else {
        bail!("empty command");
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}: is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that fails early closes its input: its own error says more.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.wait_with_output()?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let line = failed_line(&said, input).unwrap_or_default();
        bail!("{} failed: {}{line}", argv.join(" "), said.trim());
    }
    Ok(out)
}

/// The batch line that `ip -batch` names in its error ("Command failed -:3").
fn failed_line(said: &str, input: &str) -> Option<String> {
    let number: usize = said.split("Command failed -:").nth(1)?.trim().parse().ok()?;
    let line = input.lines().nth(number.checked_sub(1)?)?;
    Some(format!(" ({line})"))
}
