//! Hops joined into connections, and the [`Flow`] that is said about each.

mod anew;
mod connection;
mod dropped;
#[cfg(test)]
mod exact_tests;
pub mod identity;
mod join;
pub mod model;
mod moment;
mod notes;
mod order;
mod pressure;
mod probe;
mod record;
mod resume;
mod retransmits;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod told;
mod tracker;
mod tuple;

pub use connection::{Connection, HopState};
pub use dropped::{Drop, Loss, conversation, dropped};
pub use identity::{Identity, Node, ObjectName, Pod, Workload};
pub use model::*;
pub use moment::Moment;
pub use notes::{Encapsulation, IcmpErrors, Notes, Tunnel};
pub use probe::{Probe, ProbeHandler, ProbeKind, ProbeResult, ProbeSpec, ProbeStatus};
pub use record::{InterfaceInfo, Interfaces, flow};
pub use resume::{AtHop, Mark, Resumed, ToldOf};
pub use retransmits::Retransmits;
pub use sweep::{Sweep, Timeouts};
pub use told::{Already, Place};
pub use tracker::{Gain, News, Standing, Tracker};
pub use tuple::{Conversation, ip};
