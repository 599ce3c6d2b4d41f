//! What `deploy/` installs: is it as little as it can be, does the agent run with that and no
//! more, and does nothing stay behind?

mod image;
mod install;
mod manifests;
mod privileges;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use nodescope_tests::deployed::{Deployed, Image};
use nodescope_tests::lab::{self, Agent};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Names the archive that `cargo xtask image --debug` made.
const ENV_IMAGE: &str = "NODESCOPE_IMAGE";

/// `deploy/` and the image of the agent, or none (said why) where containers cannot be.
fn deployed() -> Result<Option<(Deployed, Image)>> {
    if !lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(None);
    }
    let Some(archive) = std::env::var_os(ENV_IMAGE).map(PathBuf::from) else {
        println!("skipped: {ENV_IMAGE} is not set; `cargo xtask test` builds the image");
        return Ok(None);
    };
    let Some(deployed) = Deployed::render("")? else {
        return Ok(None);
    };
    Ok(Some((deployed, Image::load(&archive)?)))
}

/// Waits for a condition that can fail to be looked at.
fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    lab::wait_for(what, PATIENCE, || condition().unwrap_or(false))
}

/// The last records of an agent, as its socket gives them.
fn observed(agent: &Agent) -> Result<Vec<Value>> {
    let output = agent.cli(&["observe", "--last", "1000", "-o", "json"])?;
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}
