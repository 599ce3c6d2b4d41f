//! The Hubble API: recent and live flows, filtered, over gRPC.

pub mod convert;
mod drops;
pub mod extension;
pub mod filter;
pub mod identity;
mod insights;
mod listen;
mod nat;
mod notes;
mod peers;
mod probes;
mod reason;
pub mod ring;
pub mod select;
pub mod serve;
mod service;
mod state;
mod stream;
pub mod structs;
mod summary;
mod tls;
mod uuid;

pub use nat::NatService;
pub use peers::Network;
pub use serve::{bind, bind_tcp, serve, serve_tcp, serve_unix};
pub use service::VERSION;
pub use state::{Config, DEFAULT_CAPACITY, Observer};
pub use tls::Certificates;

#[cfg(test)]
mod tests;
