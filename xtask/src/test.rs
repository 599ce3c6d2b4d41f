//! All tests: of the units, of the kernel side's host-testable part, and end to end.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::workspace::{self, KERNEL_SIDE};
use crate::{image, kernels, shell};

/// Tests at once for each core: the end-to-end tests wait half of their time, each in namespaces
/// of its own.
const AT_ONCE_PER_CORE: usize = 2;

/// Tests at once: more than this compete for the kernel's network lock rather than run side by
/// side.
const MOST_AT_ONCE: usize = 4;

/// The end-to-end tests that run a second time on a real control plane: all scenarios.
const REAL: &str = "scenario_";

/// Scenarios that cannot be played there, by the beginning of their names, and why.
const NOT_REAL: [(&str, &str); 1] = [(
    "scenario_34_an_api_that_fails",
    "a real API server cannot be told to fail",
)];

/// Set to 1, the datapath is tested on two other kernels as well.
const KERNELS: &str = "NODESCOPE_KERNELS";

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
    let mut built = workspace::build()?;
    built.image = image(arguments)?;
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
    let real = on_real_control_plane(arguments, &built);
    // What a filter chooses are tests that run here. Guests without KVM take minutes of processor
    // time that a busy machine may not have: they are asked for.
    let others = if !arguments.is_empty() {
        Ok(())
    } else if std::env::var_os(KERNELS).is_some_and(|asked| asked == "1") {
        kernels::run_in_tests()
    } else {
        println!(
            "skipped: the datapath on other kernels (set {KERNELS}=1, or run `cargo xtask kernels`)"
        );
        Ok(())
    };
    println!("tests took {:.0} s", started.elapsed().as_secs_f64());
    host.and(kernel)
        .and(real)
        .and(others)
        .context("tests failed")
}

/// Runs tests once more with a real kube-apiserver and kube-proxies, where there are any: the
/// scenarios, or those tests that `arguments` choose.
fn on_real_control_plane(arguments: &[OsString], built: &workspace::Built) -> anyhow::Result<()> {
    if std::env::var_os("KUBEBUILDER_ASSETS").is_none_or(|dir| dir.is_empty()) {
        println!("skipped: the scenarios on a real control plane (KUBEBUILDER_ASSETS is not set)");
        return Ok(());
    }
    let packages = [
        "--workspace",
        "--exclude",
        KERNEL_SIDE,
        "--test",
        "scenarios",
    ];
    let mut cargo = command(&packages, built)?;
    cargo.env("NODESCOPE_LAB", "real");
    if arguments.is_empty() {
        cargo.arg("--").arg(REAL);
        for (name, why) in NOT_REAL {
            println!("skipped on a real control plane: {name}: {why}");
            cargo.args(["--skip", name]);
        }
    } else {
        cargo.args(arguments);
    }
    shell::run(&mut cargo)
}

/// The image that the tests of `deploy/` run, where all tests or those are chosen and it can be
/// built.
fn image(arguments: &[OsString]) -> anyhow::Result<Option<PathBuf>> {
    let names = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        ["image", "install"]
            .iter()
            .any(|one| argument.contains(one))
    };
    let chosen = arguments.is_empty() || arguments.iter().any(names);
    let can = ["buildah", "podman", "runc"].map(shell::which);
    if !chosen || can.iter().any(Option::is_none) {
        return Ok(None);
    }
    image::debug().map(Some)
}

fn tests(
    packages: &[&str],
    arguments: &[OsString],
    built: &workspace::Built,
) -> anyhow::Result<()> {
    shell::run(command(packages, built)?.args(arguments))
}

/// `cargo test` for some packages.
fn command(packages: &[&str], built: &workspace::Built) -> anyhow::Result<Command> {
    let mut cargo = workspace::cargo()?;
    cargo.args(["test", "--no-fail-fast"]).args(packages);
    cargo.env("NODESCOPE_BIN", &built.nodescope);
    if let Some(image) = &built.image {
        cargo.env("NODESCOPE_IMAGE", image);
    }
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores * AT_ONCE_PER_CORE).min(MOST_AT_ONCE);
        cargo.env("RUST_TEST_THREADS", threads.to_string());
    }
    Ok(cargo)
}
