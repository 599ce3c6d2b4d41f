//! Where flows go: metrics, flow log, Hubble gRPC.

pub mod describe;
#[cfg(test)]
mod fixture;
pub mod json;
pub mod log;
pub mod names;
pub mod observer;
pub mod prometheus;
pub mod proto;
