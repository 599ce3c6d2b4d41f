//! One boot, and what the guest said.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// A guest gets so long: many times what it needs on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It did not apply, and why.
    Skipped(String),
    /// It failed.
    Failed,
}

/// What a kernel's guest said.
#[derive(Debug, Default)]
pub struct Report {
    /// The kernel, by its own word.
    pub release: String,
    /// Tests by name.
    pub tests: BTreeMap<String, Outcome>,
    /// Instructions that the verifier looked at, by program; `None` where the kernel keeps silent.
    pub verified: BTreeMap<String, Option<u32>>,
    /// Test programs that ended well.
    pub ended: usize,
    /// Whether the guest came to the tests.
    pub begun: bool,
    /// Whether it came to its end.
    pub over: bool,
    /// From the start of the emulator to its end.
    pub took: Duration,
    /// Everything that came by the serial line.
    pub text: String,
}

impl Report {
    /// Reads what came by the serial line.
    fn read(series: &str, text: String) -> Self {
        let mut report = Self {
            release: series.to_owned(),
            ..Self::default()
        };
        let mut of = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(release) = line.strip_prefix("kernel: ") {
                report.release = release.to_owned();
                report.begun = true;
            } else if let Some((name, outcome)) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.split_once(" ... "))
            {
                let outcome = if outcome == "ok" {
                    Outcome::Passed
                } else {
                    Outcome::Failed
                };
                report.tests.insert(name.to_owned(), outcome);
            } else if let Some(name) = line
                .strip_prefix("---- ")
                .and_then(|rest| rest.strip_suffix(" stdout ----"))
            {
                of = name.to_owned();
            } else if let Some(why) = line.strip_prefix("skipped: ") {
                report
                    .tests
                    .entry(of.clone())
                    .and_modify(|outcome| *outcome = Outcome::Skipped(why.to_owned()));
            } else if let Some((program, number)) = line
                .strip_prefix("verified: ")
                .and_then(|rest| rest.split_once(' '))
            {
                report
                    .verified
                    .insert(program.to_owned(), number.parse().ok());
            } else if let Some((_, code)) = line
                .strip_prefix("exit: ")
                .and_then(|rest| rest.split_once(' '))
            {
                report.ended += usize::from(code == "0");
            } else if line == "over" {
                report.over = true;
            }
        }
        report.text = text;
        report
    }

    /// Why the kernel does not count as passed; `None` when it does.
    pub fn failure(&self) -> Option<String> {
        let failed: Vec<&str> = self
            .tests
            .iter()
            .filter(|(_, outcome)| **outcome == Outcome::Failed)
            .map(|(name, _)| name.as_str())
            .collect();
        if !failed.is_empty() {
            Some(failed.join(", "))
        } else if !self.over {
            Some(format!(
                "the guest did not come to its end in {} s",
                self.took.as_secs()
            ))
        } else if self.ended != super::TESTS.len() {
            Some("a test program ended badly".to_owned())
        } else {
            None
        }
    }
}

/// Boots a kernel and waits for its end.
///
/// # Errors
/// The emulator cannot be started.
pub fn boot(qemu: &Path, series: &str, kernel: &Path, initrd: &Path) -> anyhow::Result<Report> {
    let started = Instant::now();
    let mut emulator = Command::new(qemu)
        .args(["-accel", "tcg", "-M", "pc", "-smp", "2", "-m", "768"])
        // Guests of 6.12 die at random with cx16 under qemu 7.2.
        .args(["-cpu", "max,-cx16"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args([
            "-append",
            // The last: on a busy machine an emulated timer may be late, and 5.10 gives up then.
            "console=ttyS0 quiet loglevel=3 panic=-1 nokaslr mitigations=off no_timer_check",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot run {}", qemu.display()))?;
    let mut serial = emulator.stdout.take().context("no serial line")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came until the line broke is what there is.
        let _ = serial.read_to_end(&mut bytes);
        bytes
    });
    while emulator.try_wait()?.is_none() {
        if started.elapsed() > PATIENCE {
            emulator.kill()?;
            emulator.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let bytes = reader.join().unwrap_or_default();
    let mut report = Report::read(series, String::from_utf8_lossy(&bytes).into_owned());
    report.took = started.elapsed();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "kernel: 5.10.0-32-cloud-amd64\r\n\
        test counts ... ok\r\n\
        test tcx ... ok\r\n\
        ---- tcx stdout ----\r\n\
        skipped: this kernel has no TCX\r\n\
        ---- budget stdout ----\r\n\
        verified: port_ingress 1200\r\n\
        verified: port_egress untold\r\n\
        exit: datapath 0\r\n\
        exit: kernels 0\r\n\
        exit: interfaces 0\r\n\
        over\r\n";

    #[test]
    fn a_guest_is_understood() {
        let report = Report::read("5.10", SAID.to_owned());
        assert_eq!(report.release, "5.10.0-32-cloud-amd64");
        assert_eq!(report.tests["counts"], Outcome::Passed);
        assert_eq!(
            report.tests["tcx"],
            Outcome::Skipped("this kernel has no TCX".to_owned())
        );
        assert_eq!(report.verified["port_ingress"], Some(1200));
        assert_eq!(report.verified["port_egress"], None);
        assert_eq!(report.failure(), None);
    }

    #[test]
    fn a_guest_that_stops_is_a_failure() {
        let report = Report::read("5.10", SAID.replace("over", "oops"));
        assert!(report.failure().is_some_and(|why| why.contains("end")));
        let failed = SAID.replace("counts ... ok", "counts ... FAILED");
        let report = Report::read("5.10", failed);
        assert_eq!(report.failure().as_deref(), Some("counts"));
    }
}
