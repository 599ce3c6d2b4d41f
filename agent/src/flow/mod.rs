//! Hops joined into connections, and the [`Flow`] that is said about each.

mod connection;
mod dropped;
pub mod identity;
mod join;
pub mod model;
mod notes;
mod pressure;
mod probe;
mod record;
mod retransmits;
mod sweep;
#[cfg(test)]
mod tests;
mod tracker;
mod tuple;

pub use connection::{Connection, HopState};
pub use dropped::{Drop, Loss, conversation, dropped};
pub use identity::{Identity, Node, ObjectName, Pod, Workload};
pub use model::*;
pub use notes::{Encapsulation, IcmpErrors, Notes, Tunnel};
pub use probe::{Probe, ProbeHandler, ProbeKind, ProbeResult, ProbeSpec, ProbeStatus};
pub use record::{InterfaceInfo, Interfaces, Moment, flow};
pub use retransmits::Retransmits;
pub use sweep::{Sweep, Timeouts};
pub use tracker::{Gain, Tracker};
pub use tuple::{Conversation, ip};
