//! The Kubernetes API as an inventory: address → identity, services and their backends.
//!
//! [`start`] watches the API and keeps an immutable [`Inventory`] up to date; [`name`] puts its
//! knowledge into a flow. Everything works without any API, with less to say. [`agents`] finds the
//! agents of a cluster for the command line.

mod addresses;
mod agents;
mod classify;
mod client;
mod config;
mod connect;
mod cut;
mod failure;
mod installed;
mod intern;
mod inventory;
mod local;
mod masquerade;
mod names;
mod naming;
mod nodes;
mod pace;
mod pauses;
mod peers;
mod probes;
mod services;
mod shards;
mod sources;
mod spread;
mod table;
mod tables;
#[cfg(test)]
mod tests;
mod trim;
mod watch;
mod wire;

pub use agents::{AGENT_LABEL, AgentPod, AgentsError, agents, usual_kubeconfig};
pub use config::{Config, Error, Kubeconfig, Overrides, Scope};
pub use connect::Patience;
pub use installed::is_uninstalled;
pub use inventory::{Inventory, PLATFORM, is_platform};
pub use local::Local;
pub use masquerade::{CONFIG_MAPS, Masquerade, MasqueradeConfig};
pub use naming::name;
pub use peers::{AgentAt, Agents};
pub use services::{Backend, Service, ServicePort};
pub use watch::{Cluster, KINDS, WatchErrors, start};
