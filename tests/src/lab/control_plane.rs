//! What the lab needs of an API server.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::Value;

/// An API server on the machine's loopback, told about everything that the lab makes.
pub trait ControlPlane: Send + Sync {
    /// Creates or replaces an object.
    fn apply(&self, object: Value) -> Result<()>;

    /// Removes an object; no error when it is not there.
    fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()>;

    /// Where it listens, on loopback.
    fn address(&self) -> SocketAddr;

    /// A kubeconfig that reaches it at `url`.
    fn kubeconfig(&self, url: &str) -> String;
}
