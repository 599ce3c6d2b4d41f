//! Where flows go: metrics, flow log, Hubble gRPC.

pub mod json;
pub mod log;
pub mod names;
pub mod observer;
pub mod proto;
