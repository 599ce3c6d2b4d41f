//! The lab, built and started.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::bail;

use crate::{shell, workspace};

/// Builds and becomes the lab, or becomes a nodescope command that runs against it.
///
/// # Errors
/// Not root, or the build fails, or the lab cannot be started.
pub fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    if !shell::is_root() {
        bail!("the lab makes network namespaces and loads eBPF programs; run it as root");
    }
    let built = workspace::build()?;
    let mut lab = Command::new(&built.lab);
    lab.env("NODESCOPE_BIN", &built.nodescope);
    match arguments.split_first() {
        Some((first, _)) if first == "--" => lab.arg("cli"),
        _ => lab.arg("run"),
    };
    let error = lab.args(arguments).exec();
    bail!("cannot start {}: {error}", built.lab.display())
}
