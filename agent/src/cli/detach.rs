//! `nodescope agent --detach`: removes what agents left on this node.

use anyhow::Context as _;

use crate::config::Config;
use crate::{datapath, node};

/// Removes programs, tables, filters and qdiscs, and says so on standard output.
///
/// # Errors
/// An agent runs, or the kernel does not let go.
pub(super) async fn detach(config: &Config) -> anyhow::Result<()> {
    let watch = node::watch()
        .await
        .context("reading the interfaces of the node")?;
    let view = watch.view();
    let interfaces = view.interfaces.values();
    let interfaces = interfaces.map(|interface| (interface.index, &*interface.name));
    let done = datapath::detach(config.bpffs.as_deref(), interfaces)?;
    let qdiscs = node::remove_clsact(&done.qdiscs).await?;
    println!(
        "removed: {} pinned links and tables, filters on {} interfaces, {qdiscs} clsact qdiscs",
        done.files, done.filters
    );
    Ok(())
}
