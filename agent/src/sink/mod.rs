//! Where flows go: metrics, flow log, Hubble gRPC.

pub mod proto;
