//! The scenarios on real packets: an agent on each node of a lab cluster, held against tcpdump,
//! conntrack, the interfaces' own counters and what the servers' sockets saw.

mod api_faults;
mod bad_input;
mod checks;
mod checks_dns;
mod checks_headroom;
mod checks_nodes;
mod cli;
mod common;
mod conservation;
mod drops;
mod frames;
mod identity;
mod lifecycle;
mod nat;
mod nat_ports;
mod nat_services;
mod node;
mod overload;
mod packets;
mod path;
mod pod_to_pod;
mod probes_drain;
mod probes_kubelet;
mod probes_lb;
mod probes_support;
mod probes_timeline;
mod probes_topologies;
mod service_policy;
mod services;
mod snat;
mod tcp;
