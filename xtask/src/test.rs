//! All tests: of the units, of the kernel side's host-testable part, and end to end.

use std::ffi::OsString;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::shell;
use crate::workspace::{self, KERNEL_SIDE};

/// Tests at once. The end-to-end tests mostly wait, each in namespaces of its own, but more of
/// them than this compete for the kernel's network lock rather than run side by side.
const MOST_AT_ONCE: usize = 4;

/// Builds and runs the tests that `arguments` (a filter, options of the test program) choose.
///
/// # Errors
/// Not root, or the build fails, or a test does.
pub fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    if !shell::is_root() {
        bail!(
            "the end-to-end tests make network namespaces and load eBPF programs; run this as \
             root (`cargo test --lib` alone does without)"
        );
    }
    let built = workspace::build()?;
    let packages = ["--workspace", "--exclude", KERNEL_SIDE];
    // Compiled before the clock starts, so that the time below is that of the tests.
    shell::run(
        workspace::cargo()?
            .args(["test", "--no-run"])
            .args(packages),
    )?;
    let started = Instant::now();
    let host = tests(&packages, arguments, &built);
    // Run in any case: one report of everything is worth more than the first failure alone.
    let kernel = tests(&["--package", KERNEL_SIDE, "--tests"], arguments, &built);
    println!("tests took {:.0} s", started.elapsed().as_secs_f64());
    host.and(kernel).context("tests failed")
}

fn tests(
    packages: &[&str],
    arguments: &[OsString],
    built: &workspace::Built,
) -> anyhow::Result<()> {
    let mut cargo = workspace::cargo()?;
    cargo
        .args(["test", "--no-fail-fast"])
        .args(packages)
        .args(arguments);
    cargo.env("NODESCOPE_BIN", &built.nodescope);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        cargo.env("RUST_TEST_THREADS", cores.min(MOST_AT_ONCE).to_string());
    }
    shell::run(&mut cargo)
}
