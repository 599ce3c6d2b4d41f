//! Hops joined into connections, and the [`Flow`] that is said about each.

mod connection;
pub mod identity;
pub mod model;
mod record;
#[cfg(test)]
mod tests;
mod tracker;
mod tuple;

pub use connection::{Connection, HopState};
pub use identity::{Identity, Node, ObjectName, Pod, Workload};
pub use model::*;
pub use record::{InterfaceInfo, Interfaces, Moment, flow, totals};
pub use tracker::{Gain, Sweep, Timeouts, Tracker};
pub use tuple::{Conversation, ip};
