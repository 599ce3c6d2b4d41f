//! What can go wrong between the agent and the kernel.

use std::io;
use std::path::PathBuf;

use super::capability;

/// Why the kernel side does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object or one of its programs was refused.
    #[error(
        "the kernel refused the eBPF programs: {0} ({advice})", advice = capability::advice()
    )]
    Load(String),
    /// A program or map is not in the object: the binary is not of one piece.
    #[error("the eBPF object has no `{0}`: rebuild nodescope")]
    Incomplete(&'static str),
    /// An interface refused a program.
    #[error("cannot attach to interface {interface}: {source}")]
    Attach {
        /// Its name.
        interface: String,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map operation failed.
    #[error("reading the map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Two agents on one node would count and tell everything twice.
    #[error(
        "another agent runs on this node and holds {}: stop it first", .0.display()
    )]
    Busy(PathBuf),
    /// What is pinned cannot be used.
    #[error("{}: {reason}: `nodescope agent --detach` removes what is pinned, --bpffs none does without", .path.display())]
    Pins {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}
