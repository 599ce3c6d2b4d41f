//! What the agent is told: flags, over environment, over file, over defaults.

mod args;
mod file;
mod settings;
#[cfg(test)]
mod tests;
mod values;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

pub use args::AgentArgs;
pub use file::FileError;
pub use settings::{Cidrs, Collector, Config, FlowLog, Hubble, IdleTimeout, KubeSource, Tls};
pub use values::{
    AttachBy, Bpffs, CollectorUrl, DaemonSetName, Interval, KubeChoice, Listen, LogFormat,
    LogLevel, LogTarget, MetricLabel, NatSource, OtlpProtocol, Size, Timeouts, Watch,
};

/// Where the CLI finds the agent of its node.
pub const DEFAULT_SOCKET: &str = "/run/nodescope/agent.sock";
/// Where programs and tables outlive the agent.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/nodescope";
/// Where Prometheus finds the agent.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9817);
/// Where Azure's load-balancer probes come from, and its DNS and wire server answer
/// ("What is IP address 168.63.129.16?", Azure documentation).
pub const AZURE_PLATFORM: IpAddr = IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16));

const DEFAULT_CONNECTIONS: u32 = 65_536;
const DEFAULT_FLOW_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_IDLE_TCP: Duration = Duration::from_secs(600);
const DEFAULT_IDLE_OTHER: Duration = Duration::from_secs(60);
const DEFAULT_LOG_SIZE: u64 = 100 * 1024 * 1024;
const DEFAULT_LOG_FILES: u32 = 5;
const DEFAULT_SERIES: u32 = 10_000;
const DEFAULT_EXPIRY: Duration = Duration::from_secs(600);

/// Where a pod's own credentials for the API are (Kubernetes documentation, "Accessing the
/// Kubernetes API from a Pod").
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// No source for the node's name has one.
    #[error("this node has no host name; give its name with --node-name")]
    NodeName,
    /// Half a certificate.
    #[error("{given} is given without {missing}; TLS takes both")]
    TlsPair {
        /// The flag that is there.
        given: &'static str,
        /// The flag that is not.
        missing: &'static str,
    },
    /// Client certificates cannot be asked for without TLS.
    #[error("--tls-client-ca is given without --tls-cert and --tls-key")]
    ClientCaAlone,
    /// Anyone on the network could read the flows.
    #[error(
        "--listen-hubble {0} is not a loopback address and has no TLS; give --tls-cert and \
         --tls-key, or --insecure-listen if anyone who reaches it may read the flows"
    )]
    InsecureListen(SocketAddr),
}

/// What the machine says where the configuration is silent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `$NODE_NAME`, which the DaemonSet sets from `spec.nodeName`.
    pub node_name: Option<String>,
    /// The kernel's host name.
    pub host_name: Option<String>,
    /// Whether a service account's credentials are here.
    pub in_cluster: bool,
    /// Whether `$KUBECONFIG` is set.
    pub kubeconfig: bool,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self {
            node_name: variable("NODE_NAME"),
            host_name: host_name
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty()),
            in_cluster: variable("KUBERNETES_SERVICE_HOST").is_some()
                && Path::new(SERVICE_ACCOUNT_TOKEN).exists(),
            kubeconfig: variable("KUBECONFIG").is_some(),
        }
    }
}

impl Config {
    /// Fills in what `args` (flags and environment) leave open: from the file they name, from
    /// the machine, from defaults.
    ///
    /// # Errors
    /// [`Error`] names the file and key, or the flags, and what to do about it.
    pub fn load(args: AgentArgs) -> Result<Self, Error> {
        let file = args
            .config
            .as_deref()
            .map(file::read)
            .transpose()?
            .unwrap_or_default();
        Self::resolve(args.or(file), Surroundings::of_process())
    }

    /// [`Config::load`] without a file and with the machine's part given.
    ///
    /// # Errors
    /// [`Error`] names the flags at fault.
    pub fn resolve(args: AgentArgs, around: Surroundings) -> Result<Self, Error> {
        let hubble = hubble(&args)?;
        let flow_log = flow_log(&args);
        let kube = match args.kubeconfig {
            Some(KubeChoice::None) => KubeSource::None,
            Some(KubeChoice::File(file)) => KubeSource::File(file),
            None if around.in_cluster => KubeSource::InCluster,
            None if around.kubeconfig => KubeSource::Environment,
            None => KubeSource::None,
        };
        let timeouts = args.idle_timeout.unwrap_or_default();
        let node_name = args.node_name.filter(|name| !name.is_empty());
        Ok(Self {
            node_name: node_name
                .or(around.node_name)
                .or(around.host_name)
                .ok_or(Error::NodeName)?,
            kube,
            watch: args.watch.unwrap_or_default(),
            interfaces: args.interfaces.unwrap_or_default(),
            exclude_interfaces: args.exclude_interfaces.unwrap_or_default(),
            max_connections: args.max_connections.unwrap_or(DEFAULT_CONNECTIONS),
            flow_interval: args
                .flow_interval
                .map_or(DEFAULT_FLOW_INTERVAL, |interval| interval.0),
            idle_timeout: IdleTimeout {
                tcp: timeouts.tcp.unwrap_or(DEFAULT_IDLE_TCP),
                other: timeouts.other.unwrap_or(DEFAULT_IDLE_OTHER),
            },
            listen_metrics: args
                .listen_metrics
                .map_or(Some(DEFAULT_METRICS), |listen| listen.0),
            socket: args.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            hubble,
            flow_log,
            otlp: args.otlp_endpoint.map(|CollectorUrl(url)| Collector {
                url,
                protocol: args.otlp_protocol.unwrap_or_default(),
                authorities: args.otlp_ca,
            }),
            nat_source: args.nat_source.unwrap_or_default(),
            capture_dns: args.capture_dns.unwrap_or(false),
            probe_sources: args.probe_sources.unwrap_or_else(|| vec![AZURE_PLATFORM]),
            cidrs: Cidrs {
                pod: networks(args.pod_cidr),
                node: networks(args.node_cidr),
                service: networks(args.service_cidr),
                non_masquerade: networks(args.non_masquerade_cidr),
            },
            bpffs: match args.bpffs {
                None => Some(DEFAULT_BPFFS.into()),
                Some(Bpffs::Folder(folder)) => Some(folder),
                Some(Bpffs::None) => None,
            },
            attach: args.attach.unwrap_or_default(),
            detach_on_exit: args.detach_on_exit.unwrap_or(false),
            installed_by: args.installed_by,
            detach: args.detach.unwrap_or(false),
            metrics_labels: labels(args.metrics_labels),
            metrics_max_series: args.metrics_max_series.unwrap_or(DEFAULT_SERIES),
            metrics_expiry: args
                .metrics_expiry
                .map_or(DEFAULT_EXPIRY, |expiry| expiry.0),
            log_format: args.log_format.unwrap_or_default(),
            log_level: args.log_level.unwrap_or_default(),
        })
    }
}

fn hubble(args: &AgentArgs) -> Result<Option<Hubble>, Error> {
    let tls = match (args.tls_cert.clone(), args.tls_key.clone()) {
        (Some(cert), Some(key)) => Some(Tls {
            cert,
            key,
            client_ca: args.tls_client_ca.clone(),
        }),
        (Some(_), None) => {
            return Err(Error::TlsPair {
                given: "--tls-cert",
                missing: "--tls-key",
            });
        }
        (None, Some(_)) => {
            return Err(Error::TlsPair {
                given: "--tls-key",
                missing: "--tls-cert",
            });
        }
        (None, None) if args.tls_client_ca.is_some() => return Err(Error::ClientCaAlone),
        (None, None) => None,
    };
    let Some(Listen(Some(address))) = args.listen_hubble else {
        return Ok(None);
    };
    let protected = tls.is_some() || address.ip().is_loopback();
    if !protected && args.insecure_listen != Some(true) {
        return Err(Error::InsecureListen(address));
    }
    Ok(Some(Hubble { address, tls }))
}

fn flow_log(args: &AgentArgs) -> Option<FlowLog> {
    Some(FlowLog {
        target: args.flow_log.clone()?,
        max_size: args
            .flow_log_max_size
            .map_or(DEFAULT_LOG_SIZE, |size| size.0),
        max_files: args.flow_log_max_files.unwrap_or(DEFAULT_LOG_FILES),
        include: args.flow_log_include.clone().unwrap_or_default(),
        exclude: args.flow_log_exclude.clone().unwrap_or_default(),
    })
}

/// Ranges without host bits: 10.244.0.1/16 means 10.244.0.0/16.
fn networks(given: Option<Vec<IpNet>>) -> Vec<IpNet> {
    given.unwrap_or_default().iter().map(IpNet::trunc).collect()
}

fn labels(given: Option<Vec<MetricLabel>>) -> Vec<MetricLabel> {
    use MetricLabel::{DestinationNamespace, DestinationWorkload, SourceNamespace, SourceWorkload};
    let mut labels = given.unwrap_or_else(|| {
        vec![
            SourceNamespace,
            SourceWorkload,
            DestinationNamespace,
            DestinationWorkload,
        ]
    });
    labels.sort_unstable();
    labels.dedup();
    labels
}
