//! How to reach the API, and what the configuration says in its stead.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use kube::config::{KubeConfigOptions, Kubeconfig as File};

use super::connect::Patience;

/// Where Azure's load balancer probes come from
/// (<https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16>).
pub(super) const AZURE_PLATFORM: IpAddr = IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16));

/// Where the API is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kubeconfig {
    /// The service account of the pod that the agent runs in.
    InCluster,
    /// A kubeconfig file, or several joined by `:` as in `$KUBECONFIG`.
    Path(PathBuf),
    /// No API: names are addresses.
    #[default]
    None,
}

impl Kubeconfig {
    /// `--kubeconfig` as given, else in-cluster, else `$KUBECONFIG`, else none.
    pub fn discover(flag: Option<&str>) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        match flag {
            Some("none") => Self::None,
            Some("in-cluster") => Self::InCluster,
            Some(path) if !path.is_empty() => Self::Path(PathBuf::from(path)),
            _ if set("KUBERNETES_SERVICE_HOST").is_some() => Self::InCluster,
            _ => set("KUBECONFIG").map_or(Self::None, |path| Self::Path(PathBuf::from(path))),
        }
    }
}

/// What the configuration says instead of what is discovered; empty means: discover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overrides {
    /// Ranges that pods have their addresses from, instead of the nodes' `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Ranges in which every address that is nothing else is a node.
    pub node_cidrs: Vec<IpNet>,
    /// Ranges of service addresses, known services or not.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges that pods reach under their own address, whatever the ConfigMaps say.
    pub non_masquerade: Vec<IpNet>,
    /// Addresses that load-balancer probes come from.
    pub probe_sources: Vec<IpAddr>,
}

impl Default for Overrides {
    fn default() -> Self {
        Self {
            pod_cidrs: Vec::new(),
            node_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            non_masquerade: Vec::new(),
            probe_sources: vec![AZURE_PLATFORM],
        }
    }
}

/// Which pods the agent watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All of the cluster.
    #[default]
    Cluster,
    /// Its own node's. Of others it knows what EndpointSlices tell: name, addresses and node of
    /// those behind a service.
    Node,
}

/// Configuration of the cluster room.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where the API is.
    pub kubeconfig: Kubeconfig,
    /// Name of the node that the agent runs on.
    pub node_name: String,
    /// Which pods are watched.
    pub scope: Scope,
    /// What is not to be discovered.
    pub overrides: Overrides,
    /// How long the API server may take.
    pub patience: Patience,
}

/// The API cannot be asked, whatever its state: the configuration has to be mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is not there, not readable or not a kubeconfig.
    #[error(
        "kubeconfig {path}: {reason} (give a readable kubeconfig with --kubeconfig, or `none` to run without the API)"
    )]
    Kubeconfig {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The pod has no usable service account.
    #[error(
        "in-cluster service account: {0} (set automountServiceAccountToken, or run with --kubeconfig FILE or `none`)"
    )]
    InCluster(String),
}

impl Config {
    /// The server and the user to ask as; `None` when there is to be no API.
    pub(super) async fn api(&self) -> Result<Option<kube::Config>, Error> {
        match &self.kubeconfig {
            Kubeconfig::None => Ok(None),
            Kubeconfig::InCluster => match kube::Config::incluster() {
                Ok(config) => Ok(Some(config)),
                Err(error) => Err(self.unusable(&error)),
            },
            Kubeconfig::Path(path) => {
                let config = load(path, &KubeConfigOptions::default()).await;
                config.map(Some).map_err(|reason| self.wrong(reason))
            }
        }
    }

    /// Why the configuration cannot be used.
    pub(super) fn unusable(&self, error: &dyn std::error::Error) -> Error {
        self.wrong(reason(error))
    }

    fn wrong(&self, reason: String) -> Error {
        match &self.kubeconfig {
            Kubeconfig::Path(path) => Error::Kubeconfig {
                path: path.clone(),
                reason,
            },
            Kubeconfig::InCluster | Kubeconfig::None => Error::InCluster(reason),
        }
    }
}

/// Reads a kubeconfig, or several joined by `:`.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn load(path: &Path, options: &KubeConfigOptions) -> Result<kube::Config, String> {
    let mut merged: Option<File> = None;
    for part in std::env::split_paths(path).filter(|part| !part.as_os_str().is_empty()) {
        let text = std::fs::read_to_string(&part).map_err(|error| error.to_string())?;
        // `read_from` makes the paths inside the file relative to the file, but says less when
        // the file cannot be read.
        let file = File::read_from(&part).map_err(|error| reason(&error))?;
        if file.clusters.is_empty() && !text.contains("clusters") {
            return Err("it names no cluster, so it is no kubeconfig".to_owned());
        }
        merged = Some(match merged {
            Some(before) => before.merge(file).map_err(|error| reason(&error))?,
            None => file,
        });
    }
    let merged = merged.ok_or_else(|| "the path is empty".to_owned())?;
    let config = kube::Config::from_custom_kubeconfig(merged, options).await;
    config.map_err(|error| reason(&error))
}

/// The chain of causes on one line: the first line of each that says something new (those of
/// YAML errors go on with an excerpt of the file).
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let first = |error: &dyn std::error::Error| {
        error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let mut text = first(error);
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = first(inner);
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}
