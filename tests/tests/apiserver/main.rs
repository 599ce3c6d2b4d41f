//! The lab's API server against the clients that it is for: kube-rs and kubectl.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; clippy knows this of test functions, not of their helpers"
)]

mod expiry;
mod faults;
mod kubectl;
mod reads;
mod support;
mod writes;
