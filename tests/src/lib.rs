//! The lab: clusters of network namespaces with real packets, and the API server they need.

pub mod apiserver;
pub mod deployed;
pub mod identity;
pub mod lab;
pub mod pki;
pub mod real;
pub mod records;
pub mod soak;
pub mod terminal;
