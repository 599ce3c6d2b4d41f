//! Where flows go: metrics, flow log, Hubble gRPC, OTLP.

pub mod describe;
#[cfg(test)]
pub(crate) mod fixture;
pub mod json;
pub mod log;
pub mod names;
pub mod observer;
pub mod otlp;
pub mod prometheus;
pub mod proto;
