//! Hops joined into connections, and the [`Flow`] that is said about each.

pub mod identity;
pub mod model;

pub use identity::{Identity, Node, ObjectName, Pod, Workload};
pub use model::*;
