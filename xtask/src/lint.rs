//! Format and lints.

use std::path::Path;

use crate::toolchain::{Toolchain, target_args};
use crate::workspace::{self, KERNEL_SIDE};
use crate::{setup, shell};

/// This machine's byte order, as [`target_args`] names it.
pub const ENDIAN: &str = if cfg!(target_endian = "big") {
    "big"
} else {
    "little"
};

/// Checks the format of everything, then lints the host side and the kernel side, each with the
/// compiler that builds it. All three are done in any case, so that one run shows everything.
///
/// # Errors
/// The first check that failed.
pub fn run() -> anyhow::Result<()> {
    setup::ensure()?;
    let format = shell::run(workspace::cargo()?.args(["fmt", "--all", "--check"]));
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    let host = shell::run(workspace::cargo()?.args(clippy));
    let kernel = kernel_side(&workspace::root()?);
    format.and(host).and(kernel)
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
    clippy
        .current_dir(root)
        .args(["--locked", "--release", "--package", KERNEL_SIDE])
        .args(["--bins", "--features", "bpf"])
        .args(target_args(ENDIAN))
        .args(["--target-dir", "target/bpf-lint", "--", "-D", "warnings"]);
    shell::run(&mut clippy)
}
