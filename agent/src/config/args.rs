//! The agent's flags. Each is also an environment variable and a key of the configuration file;
//! nothing here has a default, so that [`super::Config`] can tell what was said from what was not.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use ipnet::IpNet;

use super::values::{
    AttachBy, Bpffs, CollectorUrl, DaemonSetName, Interval, KubeChoice, Listen, LogFormat,
    LogLevel, LogTarget, MetricLabel, NatSource, OtlpProtocol, Size, Timeouts, Watch,
};

/// Largest flow table: 2^24 conversations a hook, some gigabytes of kernel memory.
const MOST_CONNECTIONS: u64 = 1 << 24;

/// What `nodescope agent` takes. Every field is `None` unless it was given.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(after_help = "Examples:
  nodescope agent                           as the DaemonSet runs it, everything found by itself
  nodescope agent --kubeconfig none --flow-log - --flow-log-include '--snat'
  nodescope agent --listen-hubble 127.0.0.1:4244 --metrics-labels source_namespace
  nodescope agent --detach                  remove programs and tables that an agent left")]
pub struct AgentArgs {
    /// Configuration file: YAML with the names of these flags as keys
    #[arg(long, value_name = "FILE", env = "NODESCOPE_CONFIG")]
    pub config: Option<PathBuf>,

    /// This node's name in the Kubernetes API [default: $NODE_NAME, else the host name]
    #[arg(long, value_name = "NAME", env = "NODESCOPE_NODE_NAME")]
    pub node_name: Option<String>,

    /// Credentials for the Kubernetes API, or `none` to run without it [default: the pod's own,
    /// else $KUBECONFIG, else none]
    #[arg(long, value_name = "FILE|none", env = "NODESCOPE_KUBECONFIG")]
    pub kubeconfig: Option<KubeChoice>,

    /// Pods to watch in the Kubernetes API: all, or this node's; of other nodes' pods the names of
    /// those behind a service are known then [default: cluster]
    #[arg(long, value_enum, value_name = "WHICH", env = "NODESCOPE_WATCH")]
    pub watch: Option<Watch>,

    /// Interfaces to look at, as globs; `auto` stands for pods, their bridges and the uplinks
    /// [default: auto]
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        env = "NODESCOPE_INTERFACES"
    )]
    pub interfaces: Option<Vec<String>>,

    /// Interfaces never to look at, as globs
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        env = "NODESCOPE_EXCLUDE_INTERFACES"
    )]
    pub exclude_interfaces: Option<Vec<String>>,

    /// Conversations that the flow table can hold [default: 65536]
    #[arg(long, value_name = "COUNT", env = "NODESCOPE_MAX_CONNECTIONS",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=MOST_CONNECTIONS))]
    pub max_connections: Option<u32>,

    /// Time between two records of one connection [default: 5s]
    #[arg(long, value_name = "TIME", env = "NODESCOPE_FLOW_INTERVAL")]
    pub flow_interval: Option<Interval>,

    /// Time without a packet after which a connection is over: one for all, or by protocol
    /// [default: tcp=600s,other=60s]
    #[arg(long, value_name = "TIME", env = "NODESCOPE_IDLE_TIMEOUT")]
    pub idle_timeout: Option<Timeouts>,

    /// Where to serve /metrics, /healthz and /readyz, or `off` [default: 0.0.0.0:9817]
    #[arg(long, value_name = "ADDRESS:PORT", env = "NODESCOPE_LISTEN_METRICS")]
    pub listen_metrics: Option<Listen>,

    /// Unix socket for the CLI [default: /run/nodescope/agent.sock]
    #[arg(long, value_name = "PATH", env = "NODESCOPE_SOCKET")]
    pub socket: Option<PathBuf>,

    /// Where to serve the Hubble API on the network, or `off` [default: off]
    #[arg(long, value_name = "ADDRESS:PORT", env = "NODESCOPE_LISTEN_HUBBLE")]
    pub listen_hubble: Option<Listen>,

    /// Certificate of the Hubble API (PEM)
    #[arg(long, value_name = "FILE", env = "NODESCOPE_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the Hubble API (PEM)
    #[arg(long, value_name = "FILE", env = "NODESCOPE_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Authority that must have signed a client's certificate (PEM)
    #[arg(long, value_name = "FILE", env = "NODESCOPE_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,

    /// Serve the Hubble API without TLS on an address other than loopback
    #[arg(long, value_name = "BOOL", env = "NODESCOPE_INSECURE_LISTEN",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub insecure_listen: Option<bool>,

    /// Write flow records as JSON lines to a file, or to standard output with `-`
    #[arg(long, value_name = "FILE|-", env = "NODESCOPE_FLOW_LOG")]
    pub flow_log: Option<LogTarget>,

    /// Size at which the flow log is rotated [default: 100MiB]
    #[arg(long, value_name = "SIZE", env = "NODESCOPE_FLOW_LOG_MAX_SIZE")]
    pub flow_log_max_size: Option<Size>,

    /// Rotated flow logs to keep beside the current one [default: 5]
    #[arg(long, value_name = "COUNT", env = "NODESCOPE_FLOW_LOG_MAX_FILES",
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=1000))]
    pub flow_log_max_files: Option<u32>,

    /// Log only flows that match; the words of `nodescope observe`, for example
    /// '--namespace shop'; repeat for alternatives
    #[arg(
        long,
        value_name = "FILTER",
        env = "NODESCOPE_FLOW_LOG_INCLUDE",
        allow_hyphen_values = true
    )]
    pub flow_log_include: Option<Vec<String>>,

    /// Log no flow that matches, included or not; repeat for alternatives
    #[arg(
        long,
        value_name = "FILTER",
        env = "NODESCOPE_FLOW_LOG_EXCLUDE",
        allow_hyphen_values = true
    )]
    pub flow_log_exclude: Option<Vec<String>>,

    /// Send flow records and metrics to an OpenTelemetry collector: its URL
    #[arg(long, value_name = "URL", env = "NODESCOPE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<CollectorUrl>,

    /// How the collector is spoken to [default: grpc]
    #[arg(
        long,
        value_enum,
        value_name = "PROTOCOL",
        env = "NODESCOPE_OTLP_PROTOCOL"
    )]
    pub otlp_protocol: Option<OtlpProtocol>,

    /// Authorities that sign the certificate of an https collector (PEM) [default: those of this
    /// machine]
    #[arg(long, value_name = "FILE", env = "NODESCOPE_OTLP_CA")]
    pub otlp_ca: Option<PathBuf>,

    /// Where translations are read from [default: auto]
    #[arg(long, value_enum, value_name = "SOURCE", env = "NODESCOPE_NAT_SOURCE")]
    pub nat_source: Option<NatSource>,

    /// Read the first question of DNS answers: its type, of which there are counts
    #[arg(long, value_name = "BOOL", env = "NODESCOPE_CAPTURE_DNS",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub capture_dns: Option<bool>,

    /// Addresses that load-balancer probes come from [default: 168.63.129.16]
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        env = "NODESCOPE_PROBE_SOURCES"
    )]
    pub probe_sources: Option<Vec<IpAddr>>,

    /// Pod address ranges, in place of those discovered
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        env = "NODESCOPE_POD_CIDR"
    )]
    pub pod_cidr: Option<Vec<IpNet>>,

    /// Node address ranges, in place of those discovered
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        env = "NODESCOPE_NODE_CIDR"
    )]
    pub node_cidr: Option<Vec<IpNet>>,

    /// Service address ranges, in place of those discovered
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        env = "NODESCOPE_SERVICE_CIDR"
    )]
    pub service_cidr: Option<Vec<IpNet>>,

    /// Ranges that pods reach under their own address, in place of those discovered
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        env = "NODESCOPE_NON_MASQUERADE_CIDR"
    )]
    pub non_masquerade_cidr: Option<Vec<IpNet>>,

    /// Folder on a BPF file system where programs and tables outlive the agent, so that the next
    /// one goes on with the counts, or `none` [default: /sys/fs/bpf/nodescope]
    #[arg(long, value_name = "DIR|none", env = "NODESCOPE_BPFFS")]
    pub bpffs: Option<Bpffs>,

    /// How programs hang on interfaces [default: auto]
    #[arg(long, value_enum, value_name = "HOW", env = "NODESCOPE_ATTACH")]
    pub attach: Option<AttachBy>,

    /// Take programs and tables away when the agent is told to stop
    #[arg(long, value_name = "BOOL", env = "NODESCOPE_DETACH_ON_EXIT",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub detach_on_exit: Option<bool>,

    /// DaemonSet that runs this agent: when it is gone by the time that the agent is told to stop,
    /// programs and tables are taken away, too
    #[arg(long, value_name = "NAMESPACE/NAME", env = "NODESCOPE_INSTALLED_BY")]
    pub installed_by: Option<DaemonSetName>,

    /// Remove everything that agents left on this node, and end: programs, tables, filters
    #[arg(long, value_name = "BOOL", env = "NODESCOPE_DETACH",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub detach: Option<bool>,

    /// Which ends' names the flow metrics carry [default: namespace and workload of both]
    #[arg(
        long,
        value_enum,
        value_name = "LABEL",
        value_delimiter = ',',
        env = "NODESCOPE_METRICS_LABELS"
    )]
    pub metrics_labels: Option<Vec<MetricLabel>>,

    /// Series that one metric may have; the rest is counted in one that says `other`
    /// [default: 10000]
    #[arg(long, value_name = "COUNT", env = "NODESCOPE_METRICS_MAX_SERIES",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    pub metrics_max_series: Option<u32>,

    /// Time that a series stays after what it names is gone [default: 10m]
    #[arg(long, value_name = "TIME", env = "NODESCOPE_METRICS_EXPIRY")]
    pub metrics_expiry: Option<Interval>,

    /// Form of the agent's own log, on standard error [default: text]
    #[arg(long, value_enum, value_name = "FORMAT", env = "NODESCOPE_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,

    /// What the agent's own log tells [default: info]
    #[arg(long, value_enum, value_name = "LEVEL", env = "NODESCOPE_LOG_LEVEL")]
    pub log_level: Option<LogLevel>,
}

/// `self.or(fallback)`, field by field. Names every field, so that a new one cannot be left out.
macro_rules! or_each {
    ($said:expr, $fallback:expr; $($field:ident),* $(,)?) => {{
        let AgentArgs { $($field),* } = $said;
        AgentArgs { $($field: $field.or($fallback.$field)),* }
    }};
}

impl AgentArgs {
    /// What was said here, and where nothing was, what `fallback` says.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        or_each!(self, fallback;
            config, node_name, kubeconfig, watch, interfaces, exclude_interfaces, max_connections,
            flow_interval, idle_timeout, listen_metrics, socket, listen_hubble, tls_cert, tls_key,
            tls_client_ca, insecure_listen, flow_log, flow_log_max_size, flow_log_max_files,
            flow_log_include, flow_log_exclude, otlp_endpoint, otlp_protocol, otlp_ca, nat_source,
            capture_dns,
            probe_sources, pod_cidr, node_cidr, service_cidr, non_masquerade_cidr, bpffs, attach,
            detach_on_exit, installed_by, detach,
            metrics_labels, metrics_max_series, metrics_expiry, log_format, log_level,
        )
    }
}
