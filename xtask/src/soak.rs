//! Everything at once for a long time: built, and started.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::bail;

use crate::{shell, workspace};

/// Builds and becomes the soak.
///
/// # Errors
/// Not root, or the build fails, or the lab cannot be started.
pub fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    if !shell::is_root() {
        bail!("the soak makes network namespaces and loads eBPF programs; run it as root");
    }
    let built = workspace::build()?;
    let mut arguments = arguments.iter().peekable();
    // What cargo's own habit puts before options that are another program's.
    arguments.next_if(|first| *first == "--");
    let mut soak = Command::new(&built.lab);
    soak.current_dir(workspace::root()?)
        .env("NODESCOPE_BIN", &built.nodescope)
        .arg("soak")
        .args(arguments);
    let error = soak.exec();
    bail!("cannot start {}: {error}", built.lab.display())
}
