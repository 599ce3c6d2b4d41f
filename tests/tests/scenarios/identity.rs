//! What each hook saw against what its interface counted.

use anyhow::Result;
pub use nodescope_tests::identity::*;
use nodescope_tests::lab::Agent;

use crate::common::metric;

/// Packets that an interface's hook could put into no record because the table was full.
pub fn map_full(agent: &Agent, interface: &str, direction: &str) -> Result<u64> {
    let labels = [
        ("interface", interface),
        ("direction", direction),
        ("reason", "map_full"),
    ];
    let found = metric(agent, "nodescope_hook_unattributed_packets_total", &labels)?;
    Ok(found.unwrap_or(0.0) as u64)
}
