//! The scenarios on real packets: an agent on each node of a lab cluster, held against tcpdump,
//! conntrack, the interfaces' own counters and what the servers' sockets saw.

mod api_faults;
mod bad_input;
mod cli;
mod common;
mod conservation;
mod lifecycle;
mod nat;
mod nat_ports;
mod node;
mod pod_to_pod;
mod services;
mod snat;
