//! What a flow means: NAT causes, services, probes, checks.

pub mod checks;
pub mod dns;
pub mod drops;
pub mod here;
pub mod nat;
pub mod probes;
pub mod services;
