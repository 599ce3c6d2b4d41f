//! The messages and services of `agent/proto`, as generated.
//!
//! The module tree is that of the protobuf packages, which the generated code refers to.

#![allow(
    missing_docs,
    clippy::all,
    reason = "generated from agent/proto, documented there"
)]

/// The flow record and its filter.
pub mod flow {
    tonic::include_proto!("flow");
}

/// The observer service.
pub mod observer {
    tonic::include_proto!("observer");
}

/// The peer service.
pub mod peer {
    tonic::include_proto!("peer");
}

/// States of nodes.
pub mod relay {
    tonic::include_proto!("relay");
}

/// What an agent knows about its own node.
pub mod node {
    tonic::include_proto!("nodescope.v1");
}

/// The `FileDescriptorSet` of all of these, with the well-known types they import.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
