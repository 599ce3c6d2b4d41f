//! nodescope: an eBPF observer of a Kubernetes node's datapath.
//!
//! Data goes one way through the rooms: `datapath` and `node` see, `flow` joins, `cluster`
//! names, `insight` explains, `sink` and `cli` show. A room imports only from rooms before it.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod datapath;
pub mod engine;
pub mod flow;
pub mod insight;
pub mod node;
pub mod sink;
