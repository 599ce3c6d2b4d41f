//! Hops joined into connections, and the [`Flow`] that is said about each.

mod connection;
pub mod identity;
mod join;
pub mod model;
mod record;
mod sweep;
#[cfg(test)]
mod tests;
mod tracker;
mod tuple;

pub use connection::{Connection, HopState};
pub use identity::{Identity, Node, ObjectName, Pod, Workload};
pub use model::*;
pub use record::{InterfaceInfo, Interfaces, Moment, flow};
pub use sweep::{Sweep, Timeouts};
pub use tracker::{Gain, Tracker};
pub use tuple::{Conversation, ip};
