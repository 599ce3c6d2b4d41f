//! The Hubble API: recent and live flows, filtered, over gRPC.

pub mod convert;
mod drops;
pub mod extension;
pub mod filter;
pub mod identity;
mod insights;
mod nat;
mod notes;
mod probes;
pub mod ring;
pub mod select;
pub mod serve;
mod service;
mod state;
mod stream;
pub mod structs;
mod summary;

pub use nat::NatService;
pub use serve::{bind, serve, serve_tcp, serve_unix};
pub use service::VERSION;
pub use state::{Config, DEFAULT_CAPACITY, Observer};

#[cfg(test)]
mod service_tests;
