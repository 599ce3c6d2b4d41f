//! How full the connection tracking of the node is.

use std::path::Path;

/// Where the kernel tells it, for the network namespace of whoever reads
/// (Documentation/networking/nf_conntrack-sysctl.rst).
const DIRECTORY: &str = "/proc/sys/net/netfilter";

/// Entries of the node's connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// In use.
    pub entries: u64,
    /// That fit.
    pub limit: u64,
}

impl Conntrack {
    /// Reads both numbers of the network namespace that the agent runs in.
    ///
    /// # Errors
    /// When connection tracking is not loaded or cannot be read.
    pub fn read() -> Result<Self, String> {
        Self::read_from(Path::new(DIRECTORY))
    }

    /// As [`Conntrack::read`], from `nf_conntrack_count` and `nf_conntrack_max` in a directory.
    ///
    /// # Errors
    /// When one of them is missing or no number.
    pub fn read_from(directory: &Path) -> Result<Self, String> {
        let number = |name: &str| {
            let path = directory.join(name);
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            let text = text.trim();
            text.parse::<u64>()
                .map_err(|_| format!("{}: {text:?} is no number", path.display()))
        };
        Ok(Self {
            entries: number("nf_conntrack_count")?,
            limit: number("nf_conntrack_max")?,
        })
    }
}
