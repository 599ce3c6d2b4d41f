//! The node: interfaces, addresses, routes, neighbours and bridge forwarding entries as the
//! kernel tells them over netlink, kept live, and what they say about the network model.
//!
//! [`watch`] gives a [`NodeView`] that follows the kernel; the other functions read a view.

mod beneath;
mod clsact;
pub mod conntrack;
mod dump;
mod error;
mod event;
mod filter;
mod interface;
mod model;
mod pods;
mod roles;
#[cfg(test)]
mod tests;
mod view;
mod watch;

pub use beneath::{Beneath, beneath, role_notes};
pub use clsact::remove_clsact;
pub use error::Error;
pub use filter::InterfaceFilter;
pub use interface::{Interface, Kind};
pub use model::{ModelKind, NetworkModel, model};
pub use pods::{pod_interface, pods_by_interface};
pub use roles::roles;
pub use view::{FdbEntry, Neighbour, NeighbourState, NodeView, Route};
pub use watch::{Statistics, Watch, watch};
