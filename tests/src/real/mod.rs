//! A real control plane for the lab: etcd, kube-apiserver, kube-controller-manager, and a real
//! kube-proxy in each node's namespace.
//!
//! It is there where `KUBEBUILDER_ASSETS` names the folder of its programs (etcd may be on the
//! PATH instead). One control plane serves one lab at a time; when that is gone, the next lab of
//! the process takes it over, emptied, because the start of another takes five seconds.
//!
//! The servers listen on the loopback of a namespace of their own, `ns-lab<name>-control`. A
//! keeper process holds them and a relay from the machine's loopback; it removes everything when
//! the process that started it is gone, however it ended.

mod assets;
mod client;
mod credentials;
mod keeper;
mod kubelet;
mod plane;
mod plugin;
mod pool;
mod proxy;

pub use assets::{Assets, ENV_ASSETS};
pub use client::ApiClient;
pub use keeper::keep;
pub use plane::RealControlPlane;
pub(crate) use proxy::{Expected, PortRules};

/// The variable that asks for the real control plane in every lab: `NODESCOPE_LAB=real`.
pub const ENV_LAB: &str = "NODESCOPE_LAB";

/// Whether the environment asks for the real control plane in every lab.
pub fn is_asked_for() -> bool {
    std::env::var(ENV_LAB).is_ok_and(|value| value == "real")
}
