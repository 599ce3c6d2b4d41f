//! What a flow means: NAT causes, services, probes, checks.

pub mod checks;
pub mod services;
