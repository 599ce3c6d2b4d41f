//! What a flow means: NAT causes, services, probes, checks.

pub mod nat;
