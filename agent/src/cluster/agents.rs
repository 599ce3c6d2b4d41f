//! The agents of a cluster, found by their pods, and a tunnel to each through the API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client};
use tokio::io::DuplexStream;

use super::config::{load, reason};

/// What the pods of agents are labelled with, see `deploy/daemonset.yaml`.
pub const AGENT_LABEL: &str = "app.kubernetes.io/name=nodescope";

/// Where they are installed unless an overlay says otherwise; looked at where the user may not list
/// the pods of all namespaces.
const NAMESPACE: &str = "nodescope";

/// The name of the container port that serves the Hubble API, and what it is where no port has that
/// name (the number that Cilium's agents use).
pub(super) const PORT: (&str, u16) = ("hubble", 4244);

/// The API server's answer to who may not: RFC 9110 section 15.5.4.
const FORBIDDEN: u16 = 403;

/// An API server that does not answer a connection within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there are no agents to ask.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    /// No file, or none that can be used.
    #[error("{of}: {reason}")]
    Kubeconfig {
        /// Which kubeconfig.
        of: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The API server does not answer, or refuses.
    #[error("asking the API server for pods labelled {AGENT_LABEL}: {0}")]
    Api(String),
    /// The pod's port cannot be reached.
    #[error("port-forward to pod {pod}: {reason}")]
    Tunnel {
        /// Namespace and name.
        pod: String,
        /// What the API server or the node says.
        reason: String,
    },
}

/// A pod that runs, or should run, an agent.
#[derive(Clone)]
pub struct AgentPod {
    /// The node that it is on; its own name while it is on none.
    pub node: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The port of the Hubble API, on the pod's loopback.
    pub port: u16,
    /// Why there is no use in asking it; none when it runs.
    pub down: Option<String>,
    client: Client,
    failure: Arc<Mutex<Option<String>>>,
}

impl std::fmt::Debug for AgentPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} on {}", self.namespace, self.name, self.node)
    }
}

/// Where a kubeconfig would be found without a flag: `$KUBECONFIG`, else `~/.kube/config` if it is
/// there.
pub fn usual_kubeconfig() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("KUBECONFIG") {
        return Some(path.into());
    }
    let file = PathBuf::from(set("HOME")?).join(".kube/config");
    file.is_file().then_some(file)
}

/// The agents of the cluster that a kubeconfig's context names (none: the current one), one a node,
/// by name of the node.
///
/// # Errors
/// When the kubeconfig cannot be used, or the API server does not tell.
pub async fn agents(
    kubeconfig: &Path,
    context: Option<&str>,
) -> Result<Vec<AgentPod>, AgentsError> {
    let named = || match context {
        Some(context) => format!("kubeconfig {}, context {context}", kubeconfig.display()),
        None => format!("kubeconfig {}", kubeconfig.display()),
    };
    let unusable = |reason: String| AgentsError::Kubeconfig {
        of: named(),
        reason,
    };
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let mut config = load(kubeconfig, &options).await.map_err(unusable)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A tunnel may be silent for as long as its node is.
    config.read_timeout = None;
    config.write_timeout = None;
    let client = Client::try_from(config).map_err(|error| unusable(reason(&error)))?;
    let pods = list(&client)
        .await
        .map_err(|error| AgentsError::Api(format!("{} ({})", reason(&error), named())))?;
    Ok(choose(pods.iter().map(|pod| read(pod, &client))))
}

async fn list(client: &Client) -> kube::Result<Vec<Pod>> {
    let wanted = ListParams::default().labels(AGENT_LABEL);
    let everywhere = Api::<Pod>::all(client.clone()).list(&wanted).await;
    let found = match everywhere {
        Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {
            let there = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
            there.list(&wanted).await?
        }
        other => other?,
    };
    Ok(found.items)
}

fn read(pod: &Pod, client: &Client) -> AgentPod {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let containers = spec.map_or(&[][..], |spec| &spec.containers);
    let port = containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| port.name.as_deref() == Some(PORT.0))
        .and_then(|port| u16::try_from(port.container_port).ok());
    AgentPod {
        node: spec
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_else(|| name.clone()),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name,
        port: port.unwrap_or(PORT.1),
        down: down(pod),
        client: client.clone(),
        failure: Arc::default(),
    }
}

/// Why a pod cannot be asked.
fn down(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".to_owned());
    }
    if pod
        .spec
        .as_ref()
        .is_none_or(|spec| spec.node_name.is_none())
    {
        return Some("is on no node yet".to_owned());
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    match phase.as_deref() {
        Some("Running") => None,
        Some(phase) => Some(format!("does not run: it is {phase}")),
        None => Some("does not run".to_owned()),
    }
}

/// One pod a node: while pods are replaced, the one that runs.
fn choose(pods: impl Iterator<Item = AgentPod>) -> Vec<AgentPod> {
    let mut chosen = BTreeMap::<String, AgentPod>::new();
    for pod in pods {
        let better = chosen
            .get(&pod.node)
            .is_none_or(|other| other.down.is_some() && pod.down.is_none());
        if better {
            chosen.insert(pod.node.clone(), pod);
        }
    }
    chosen.into_values().collect()
}

impl AgentPod {
    /// The pod that runs the agent of the same node now: it has another name after a roll-out.
    ///
    /// # Errors
    /// When the API server does not tell, or there is none.
    pub async fn successor(&self) -> Result<Self, AgentsError> {
        let failed = |reason: String| AgentsError::Api(format!("{reason} (node {})", self.node));
        let pods = list(&self.client)
            .await
            .map_err(|error| failed(reason(&error)))?;
        let pods = pods.iter().map(|pod| read(pod, &self.client));
        let found = choose(pods.filter(|pod| pod.node == self.node)).pop();
        found.ok_or_else(|| failed("there is none".to_owned()))
    }

    /// Opens a connection to the agent's port through the API server.
    ///
    /// # Errors
    /// When the API server refuses, or the pod's node does not answer it.
    pub async fn open(&self) -> Result<DuplexStream, AgentsError> {
        let failed = |reason: String| AgentsError::Tunnel {
            pod: format!("{}/{}", self.namespace, self.name),
            reason,
        };
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let forwarded = pods.portforward(&self.name, &[self.port]).await;
        let mut forwarder = forwarded.map_err(|error| failed(reason(&error)))?;
        let stream = forwarder.take_stream(self.port);
        let failure = forwarder.take_error(self.port);
        let (Some(stream), Some(failure)) = (stream, failure) else {
            return Err(failed(format!("port {} was not forwarded", self.port)));
        };
        self.keep(None);
        let pod = self.clone();
        tokio::spawn(async move {
            if let Some(said) = failure.await {
                pod.keep(Some(said.trim().to_owned()));
            }
        });
        Ok(stream)
    }

    /// What the node said when the last connection failed: it comes before the connection's end.
    pub fn failure(&self) -> Option<String> {
        let failure = self.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}
