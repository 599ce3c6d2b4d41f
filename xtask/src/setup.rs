//! Installs what building and testing need, on Debian and Ubuntu.

mod apt;
mod plan;

use std::fmt::Write as _;

use anyhow::bail;

use crate::shell;
use plan::Plan;

/// Installs what is missing, or says that nothing is.
///
/// # Errors
/// A step fails, or needs root or apt where there is none; the message holds the commands.
pub fn run() -> anyhow::Result<()> {
    let plan = Plan::make();
    if plan.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    carry_out(&plan)
}

/// The same, silent when nothing is missing; quick then, too: it looks at files, and asks one
/// compiler for its version.
///
/// # Errors
/// As [`run`].
pub fn ensure() -> anyhow::Result<()> {
    let plan = Plan::make();
    if plan.is_empty() {
        Ok(())
    } else {
        carry_out(&plan)
    }
}

fn carry_out(plan: &Plan) -> anyhow::Result<()> {
    eprintln!("missing: {}", plan.missing.join(", "));
    let can_install = shell::is_root() && apt::is_here();
    if plan.needs_apt() && !can_install {
        let reason = if apt::is_here() {
            "not root"
        } else {
            "no apt-get on this machine"
        };
        bail!(
            "{reason}; run these commands, then start again:{}",
            listing(plan)
        );
    }
    if can_install {
        let refresh = plan::refresh();
        eprintln!("{}", refresh.purpose);
        if let Err(error) = shell::run(&mut refresh.command()) {
            eprintln!("{error:#}; going on with the lists that are here");
        }
    }
    // Made anew: with fresh lists apt may have what it did not know of before.
    for step in Plan::make().steps {
        eprintln!("{}", step.purpose);
        shell::run(&mut step.command())?;
    }
    let left = Plan::make();
    if !left.is_empty() {
        bail!(
            "still missing: {}; install by hand:{}",
            left.missing.join(", "),
            listing(&left)
        );
    }
    eprintln!("set up");
    Ok(())
}

/// The commands, as one would type them.
fn listing(plan: &Plan) -> String {
    let sudo = if shell::is_root() { "" } else { "sudo " };
    let refresh = plan.needs_apt().then(plan::refresh);
    refresh
        .iter()
        .chain(&plan.steps)
        .fold(String::new(), |mut lines, step| {
            let prefix = if step.takes_root() { sudo } else { "" };
            // Writing to a String does not fail.
            let _ = write!(lines, "\n  {prefix}{step}");
            lines
        })
}
