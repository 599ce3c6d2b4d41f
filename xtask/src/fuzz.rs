//! The fuzz tests with more frames than a test run has time for.

use std::time::{Duration, Instant};

use crate::shell;
use crate::workspace::{self, KERNEL_SIDE};

/// Frames of each test at a time.
const CASES: &str = "20000";

/// Runs the tests of the parser, and as root those of the programs in the kernel, on frames that
/// are others each time, until the time is over.
///
/// # Errors
/// A test fails; it has printed the frame.
pub fn run(length: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < length {
        tests(&["--package", KERNEL_SIDE])?;
        if shell::is_root() {
            tests(&["--package", "nodescope"])?;
        }
    }
    println!("no difference in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn tests(package: &[&str]) -> anyhow::Result<()> {
    let mut cargo = workspace::cargo()?;
    cargo.arg("test").args(package).args(["--test", "fuzz"]);
    shell::run(cargo.env("PROPTEST_CASES", CASES))
}
