//! The datapath's tests on stock Debian kernels, each booted in a virtual machine.

mod guest;
mod image;
mod package;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, bail};

use crate::shell;
use crate::workspace::{self, KERNEL_SIDE};

pub use guest::Report;

/// Test programs of the agent that run on every kernel, in this order.
const TESTS: [&str; 3] = ["datapath", "interfaces", "kernels"];

/// Kernels that the tests of the whole project include: the oldest, and the oldest with TCX that
/// Debian has.
const IN_TESTS: [&str; 2] = ["5.10", "6.12"];

/// Virtual machines at once.
const AT_ONCE: usize = 2;

/// Runs the tests on kernels, all that are known when none is named, and prints the table;
/// writes it into the README when `write`.
///
/// # Errors
/// A kernel cannot be had or booted, or a test fails on one.
pub fn run(wanted: &[String], write: bool) -> anyhow::Result<()> {
    let is_none = |name: &&String| {
        *name != package::NEWEST
            && (name.is_empty() || name.contains(|c: char| c != '.' && !c.is_ascii_digit()))
    };
    if let Some(wrong) = wanted.iter().find(is_none) {
        bail!("{wrong:?} is no kernel series: write it as 6.1, or `newest`");
    }
    let ready = prepare()?;
    let series = if wanted.is_empty() {
        package::SERIES.map(|(name, _)| name.to_owned()).to_vec()
    } else {
        wanted.to_vec()
    };
    let reports = boot_all(&ready, &series)?;
    println!("{}", table::table(&reports));
    verdict(&reports)?;
    if write {
        table::write(&ready.root.join("README.md"), &table::features(&reports))?;
    }
    Ok(())
}

/// The same for the tests of the whole project: the reason, where this machine cannot do it.
///
/// # Errors
/// A test fails on a kernel.
pub fn run_in_tests() -> anyhow::Result<()> {
    let fetched = prepare().and_then(|ready| {
        for series in IN_TESTS {
            package::fetch(&ready.cache, series)?;
        }
        Ok(ready)
    });
    let ready = match fetched {
        Ok(ready) => ready,
        Err(why) => {
            println!("skipped: the datapath on other kernels ({why:#})");
            return Ok(());
        }
    };
    let reports = boot_all(&ready, &IN_TESTS.map(str::to_owned))?;
    println!("{}", table::table(&reports));
    verdict(&reports)
}

/// What every boot needs.
struct Ready {
    root: PathBuf,
    cache: PathBuf,
    qemu: PathBuf,
    tests: Vec<PathBuf>,
}

/// Installs what is missing and builds the tests.
fn prepare() -> anyhow::Result<Ready> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machines are x86-64 ones");
    }
    package::tools()?;
    let root = workspace::root()?;
    Ok(Ready {
        cache: root.join("target/kernels"),
        qemu: shell::which(guest::QEMU).context("no qemu-system-x86_64")?,
        tests: build_tests()?,
        root,
    })
}

/// The test programs, built.
fn build_tests() -> anyhow::Result<Vec<PathBuf>> {
    let mut cargo = workspace::cargo()?;
    cargo.args(["test", "--no-run", "--workspace", "--exclude", KERNEL_SIDE]);
    cargo.arg("--message-format=json-render-diagnostics");
    for test in TESTS {
        cargo.args(["--test", test]);
    }
    let out = cargo
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !out.status.success() {
        bail!("the tests do not build");
    }
    let text = String::from_utf8_lossy(&out.stdout);
    TESTS.iter().map(|test| executable(&text, test)).collect()
}

/// A test program's path, from what cargo says of its build.
fn executable(messages: &str, test: &str) -> anyhow::Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == test)
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .with_context(|| format!("cargo built no test {test}"))
}

/// Boots kernels, [`AT_ONCE`] at a time; reports in the order of `series`.
fn boot_all(ready: &Ready, series: &[String]) -> anyhow::Result<Vec<Report>> {
    let next = Mutex::new(series.iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(series.len()) {
            scope.spawn(|| {
                loop {
                    let Some((at, one)) = next.lock().ok().and_then(|mut next| next.next()) else {
                        return;
                    };
                    let report = boot(ready, one);
                    if let Ok(mut done) = done.lock() {
                        done.push((at, report));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, report)| report).collect()
}

fn boot(ready: &Ready, series: &str) -> anyhow::Result<Report> {
    let kernel = package::fetch(&ready.cache, series)?;
    let initrd = image::make(&ready.cache, &kernel, &ready.tests)?;
    eprintln!("booting Linux {}", kernel.release);
    let once = || {
        guest::boot(&ready.qemu, series, &kernel.vmlinuz, &initrd)
            .with_context(|| format!("Linux {series}"))
    };
    let mut report = once()?;
    if !report.begun {
        // The kernel and the emulator did not get on; no test has run yet.
        eprintln!("Linux {} did not boot, once more", kernel.release);
        report = once()?;
    }
    eprintln!(
        "Linux {} took {:.0} s",
        kernel.release,
        report.took.as_secs_f64()
    );
    Ok(report)
}

fn verdict(reports: &[Report]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for report in reports {
        if let Some(why) = report.failure() {
            eprintln!("{}", report.text);
            failed.push(format!("{} ({why})", report.release));
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("the datapath fails on Linux {}", failed.join(", "))
    }
}

/// Runs a command and gives what it prints.
fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let name = command.get_program().display().to_string();
    let out = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        let last = text.lines().rev().find(|line| !line.is_empty());
        bail!("{name}: {}", last.unwrap_or("failed without a word"));
    }
    Ok(out.stdout)
}

/// A path as text, for a command line.
fn text(path: &Path) -> String {
    path.display().to_string()
}
