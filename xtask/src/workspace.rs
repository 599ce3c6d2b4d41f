//! The workspace: where it is, and what building it gives.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::{setup, shell};

/// The kernel side. Its program compiles for the bpf target only, so that whole-workspace
/// commands for the host leave it out.
pub const KERNEL_SIDE: &str = "nodescope-ebpf";

/// Programs that the build leaves.
pub struct Built {
    /// The agent and CLI.
    pub nodescope: PathBuf,
    /// The lab.
    pub lab: PathBuf,
    /// An OCI archive with the agent, where one was made.
    pub image: Option<PathBuf>,
}

/// Sets up what is missing and builds every program of the host side.
pub fn build() -> anyhow::Result<Built> {
    setup::ensure()?;
    shell::run(cargo()?.args(["build", "--workspace", "--exclude", KERNEL_SIDE, "--bins"]))?;
    let dir = programs()?;
    Ok(Built {
        nodescope: dir.join("nodescope"),
        lab: dir.join("nodescope-lab"),
        image: None,
    })
}

/// Builds the same as they are shipped, and gives their directory.
///
/// # Errors
/// As [`build`].
pub fn build_release() -> anyhow::Result<PathBuf> {
    setup::ensure()?;
    let arguments = [
        "build",
        "--release",
        "--workspace",
        "--exclude",
        KERNEL_SIDE,
        "--bins",
    ];
    shell::run(cargo()?.args(arguments))?;
    Ok(target()?.join("release"))
}

/// The cargo that started us, in the workspace's root.
pub fn cargo() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

/// The workspace's root.
pub fn root() -> anyhow::Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = here.parent().context("xtask is not inside a workspace")?;
    Ok(root.to_owned())
}

/// The folder of everything that is built.
///
/// # Errors
/// It cannot be told.
pub fn target() -> anyhow::Result<PathBuf> {
    let programs = programs()?;
    let target = programs.parent().map(Path::to_owned);
    target.context("cannot tell where cargo leaves programs")
}

/// Where cargo leaves programs: beside this one.
fn programs() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("cannot tell where this program is")?;
    Ok(me.parent().unwrap_or(Path::new(".")).to_owned())
}
