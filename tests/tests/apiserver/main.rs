//! The lab's API server against the clients that it is for: kube-rs and kubectl.

mod expiry;
mod faults;
mod kubectl;
mod reads;
mod support;
mod writes;
