//! The lab's API server: on the machine's loopback, told about everything that the lab makes.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::control_plane::{ControlPlane, Who};
use crate::apiserver::ApiServer;

/// The token that the lab's clients show.
const TOKEN: &str = "nodescope-lab";

/// An API server and the runtime that it lives in.
pub(super) struct Api {
    server: ApiServer,
    runtime: Option<Runtime>,
}

impl Api {
    /// Starts one on a free port.
    pub(super) fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lab-api")
            .enable_all()
            .build()
            .context("starting the API server's runtime")?;
        let server = {
            let _inside = runtime.enter();
            ApiServer::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), TOKEN)?
        };
        Ok(Self {
            server,
            runtime: Some(runtime),
        })
    }
}

impl ControlPlane for Api {
    fn apply(&self, object: Value) -> Result<()> {
        let name = object["metadata"]["name"].to_string();
        self.server
            .store()
            .apply(object)
            .map(drop)
            .with_context(|| format!("telling the API server of {name}"))
    }

    fn written(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let object = self.server.store().get(kind, namespace, name)?;
        Some((*object).clone())
    }

    fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        self.server
            .store()
            .delete(kind, namespace, name)
            .with_context(|| format!("removing {kind} {namespace}/{name} from the API server"))
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.address())
    }

    /// It has one token, which may do everything.
    fn kubeconfig(&self, url: &str, _who: Who) -> Result<String> {
        Ok(self.server.kubeconfig(url))
    }

    fn simulated(&self) -> Option<&ApiServer> {
        Some(&self.server)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // Not waited for: a lab may be dropped inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
