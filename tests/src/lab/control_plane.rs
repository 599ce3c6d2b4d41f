//! What a lab asks of its control plane, the lab's own API server or a real one.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::Value;

use crate::apiserver::ApiServer;
use crate::real::RealControlPlane;

/// Whose rights a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A person who may do everything.
    Admin,
    /// The agent: what `deploy/base/rbac.yaml` gives it.
    Agent,
    /// kube-proxy.
    Proxy,
}

/// A control plane.
pub trait ControlPlane: Send + Sync {
    /// Creates or replaces an object, with its status.
    fn apply(&self, object: Value) -> Result<()>;

    /// An object as it was last written, without what a server adds; none when it was not.
    fn written(&self, kind: &str, namespace: &str, name: &str) -> Option<Value>;

    /// Removes an object.
    fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()>;

    /// Where the API server answers on this machine.
    fn address(&self) -> Result<SocketAddr>;

    /// A kubeconfig for clients that reach the API server at `url`.
    fn kubeconfig(&self, url: &str, who: Who) -> Result<String>;

    /// The lab's own API server, to make it misbehave; none when it is a real one.
    fn simulated(&self) -> Option<&ApiServer> {
        None
    }

    /// The real control plane: its controllers write EndpointSlices, and its kube-proxies the
    /// services' rules.
    fn real(&self) -> Option<&RealControlPlane> {
        None
    }
}
