//! The benchmarks, built and started.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::toolchain::{Toolchain, target_args};
use crate::workspace::{self, KERNEL_SIDE};
use crate::{lint, shell};

/// The program to compare with.
const FLOOR: &str = "floor";

/// Builds everything as it is shipped, and becomes the benchmarks' program: a Ctrl-C then reaches
/// the one that has something to clean up.
///
/// # Errors
/// Not root, or a build fails, or the program cannot be started.
pub fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    if !shell::is_root() {
        bail!("the benchmarks make network namespaces and load eBPF programs; run them as root");
    }
    let built = workspace::build_release()?;
    let root = workspace::root()?;
    let floor = floor(&root)?;
    let mut arguments = arguments.iter().peekable();
    // What cargo's own habit puts before options that are another program's.
    arguments.next_if(|first| *first == "--");
    let mut bench = Command::new(built.join("nodescope-bench"));
    bench
        .current_dir(&root)
        .arg("--floor")
        .arg(floor)
        .args(arguments);
    let error = bench.exec();
    bail!("cannot start {}: {error}", bench.get_program().display())
}

/// Compiles the object with the programs to compare with.
fn floor(root: &Path) -> anyhow::Result<PathBuf> {
    let target = target_args(lint::ENDIAN);
    let directory = root.join("target/bpf-bench");
    let mut cargo = Toolchain::find()?.cargo(std::env::consts::ARCH);
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--release", "--package", KERNEL_SIDE])
        .args(["--bin", FLOOR, "--features", "bpf"])
        .args(target)
        .arg("--target-dir")
        .arg(&directory);
    shell::run(&mut cargo)?;
    Ok(directory.join(target[1]).join("release").join(FLOOR))
}
