//! Format and lints.

use std::path::Path;

use crate::toolchain::{Toolchain, target_args};
use crate::workspace::{self, KERNEL_SIDE};
use crate::{setup, shell};

/// Checks the format of everything, then lints the host side and the kernel side, each with the
/// compiler that builds it.
///
/// # Errors
/// The first check that fails.
pub fn run() -> anyhow::Result<()> {
    setup::ensure()?;
    shell::run(workspace::cargo()?.args(["fmt", "--all", "--check"]))?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    shell::run(workspace::cargo()?.args(clippy))?;
    kernel_side(&workspace::root()?)
}

fn kernel_side(root: &Path) -> anyhow::Result<()> {
    let toolchain = Toolchain::find()?;
    if !toolchain.has_clippy() {
        println!(
            "the eBPF programs are not linted: the Rust in {} has no clippy",
            toolchain.prefix.display()
        );
        return Ok(());
    }
    let mut clippy = toolchain.clippy(std::env::consts::ARCH);
    let endian = if cfg!(target_endian = "big") {
        "big"
    } else {
        "little"
    };
    clippy
        .current_dir(root)
        .args(["--locked", "--release", "--package", KERNEL_SIDE])
        .args(["--bin", KERNEL_SIDE, "--features", "bpf"])
        .args(target_args(endian))
        .args(["--target-dir", "target/bpf-lint", "--", "-D", "warnings"]);
    shell::run(&mut clippy)
}
