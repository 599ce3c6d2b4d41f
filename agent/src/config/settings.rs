//! The configuration as the other rooms see it: every question answered.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::values::{
    AttachBy, DaemonSetName, LogFormat, LogLevel, LogTarget, MetricLabel, NatSource, OtlpProtocol,
    Watch,
};

/// How the agent finds the Kubernetes API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeSource {
    /// With the pod's own service account.
    InCluster,
    /// With the file or files that `$KUBECONFIG` names.
    Environment,
    /// With this file.
    File(PathBuf),
    /// Not at all: names are addresses.
    None,
}

/// Idle time after which a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTimeout {
    /// For TCP.
    pub tcp: Duration,
    /// For everything else.
    pub other: Duration,
}

/// The Hubble API on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hubble {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate; without one it speaks plain text.
    pub tls: Option<Tls>,
}

/// Files for TLS, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who must have signed a client's certificate; without it clients need none.
    pub client_ca: Option<PathBuf>,
}

/// The flow log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLog {
    /// Where it goes.
    pub target: LogTarget,
    /// Bytes after which a file is rotated.
    pub max_size: u64,
    /// Rotated files kept beside the current one.
    pub max_files: u32,
    /// Filters in the words of `observe`; a flow is logged if one matches or there is none.
    pub include: Vec<String>,
    /// Filters in the words of `observe`; a flow that matches one is not logged.
    pub exclude: Vec<String>,
}

/// The OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Its URL.
    pub url: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// A file with the authorities that sign its certificate; `None` for those of this machine.
    pub authorities: Option<PathBuf>,
}

/// Address ranges that take the place of what is discovered; none means: discover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs {
    /// Of pods.
    pub pod: Vec<IpNet>,
    /// Of nodes.
    pub node: Vec<IpNet>,
    /// Of services.
    pub service: Vec<IpNet>,
    /// Reached by pods under their own address.
    pub non_masquerade: Vec<IpNet>,
}

/// Everything the agent is told, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's name in the Kubernetes API.
    pub node_name: String,
    /// How the API is found.
    pub kube: KubeSource,
    /// Which pods are watched there.
    pub watch: Watch,
    /// Globs of interfaces to look at; none means: decide by role.
    pub interfaces: Vec<String>,
    /// Globs of interfaces never to look at.
    pub exclude_interfaces: Vec<String>,
    /// Entries of the flow table.
    pub max_connections: u32,
    /// Time between two records of one connection.
    pub flow_interval: Duration,
    /// When a connection is over for want of packets.
    pub idle_timeout: IdleTimeout,
    /// Where metrics and health are served.
    pub listen_metrics: Option<SocketAddr>,
    /// The CLI's socket.
    pub socket: PathBuf,
    /// The Hubble API on the network.
    pub hubble: Option<Hubble>,
    /// The flow log.
    pub flow_log: Option<FlowLog>,
    /// Where flow records and metrics are sent.
    pub otlp: Option<Collector>,
    /// Where translations are read from.
    pub nat_source: NatSource,
    /// Whether the questions of DNS answers are read, not their headers alone.
    pub capture_dns: bool,
    /// Where load-balancer probes come from.
    pub probe_sources: Vec<IpAddr>,
    /// Address ranges that override discovery.
    pub cidrs: Cidrs,
    /// Where programs and tables outlive the agent.
    pub bpffs: Option<PathBuf>,
    /// How programs hang on interfaces.
    pub attach: AttachBy,
    /// Whether they go when the agent is told to stop.
    pub detach_on_exit: bool,
    /// The DaemonSet with which they go.
    pub installed_by: Option<DaemonSetName>,
    /// Whether all that is to be done is to remove what agents left.
    pub detach: bool,
    /// Names that flow metrics carry; sorted, each once.
    pub metrics_labels: Vec<MetricLabel>,
    /// Series that one metric may have.
    pub metrics_max_series: u32,
    /// How long a series stays after what it names is gone.
    pub metrics_expiry: Duration,
    /// Form of the agent's own log.
    pub log_format: LogFormat,
    /// What it tells.
    pub log_level: LogLevel,
}
