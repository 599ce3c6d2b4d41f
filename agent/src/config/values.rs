//! The kinds of value that flags take, and how they are written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use axum::http::Uri;
use bytesize::ByteSize;
use clap::ValueEnum;
use tracing::level_filters::LevelFilter;

/// Shortest interval: below it the agent would do nothing but drain.
const SHORTEST: Duration = Duration::from_millis(100);

/// Smallest flow log: room for the longest record and some.
const SMALLEST_LOG: u64 = 64 * 1024;

/// The word that switches a listener off.
const OFF: &str = "off";

/// A length of time such as `5s`, `500ms` or `10m`, of at least 100 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text)
            .map_err(|error| format!("{error}; write a time such as 5s or 500ms"))?;
        if duration < SHORTEST {
            return Err(format!(
                "shorter than {}",
                humantime::format_duration(SHORTEST)
            ));
        }
        Ok(Self(duration))
    }
}

/// Idle time after which a connection is over, as far as it was given: `90s` for all, or
/// `tcp=600s,other=60s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For TCP.
    pub tcp: Option<Duration>,
    /// For everything else.
    pub other: Option<Duration>,
}

impl FromStr for Timeouts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            let Interval(all) = text.parse()?;
            return Ok(Self {
                tcp: Some(all),
                other: Some(all),
            });
        }
        let mut timeouts = Self::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let field = match name.trim() {
                "tcp" => &mut timeouts.tcp,
                "other" => &mut timeouts.other,
                _ => return Err(format!("`{part}` is neither tcp=TIME nor other=TIME")),
            };
            *field = Some(value.trim().parse::<Interval>()?.0);
        }
        Ok(timeouts)
    }
}

/// An address to listen on, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == OFF {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| {
            "write an IP address and a port, such as 127.0.0.1:9817 or [::]:9817, or off".to_owned()
        })?;
        Ok(Self(Some(address)))
    }
}

/// A size in bytes such as `65536`, `10MB` (10^7) or `100MiB`, of at least 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: ByteSize = text
            .parse()
            .map_err(|error| format!("{error}; write a size such as 10MB or 100MiB"))?;
        if size.as_u64() < SMALLEST_LOG {
            return Err("smaller than 64KiB".to_owned());
        }
        Ok(Self(size.as_u64()))
    }
}

/// The value of `--kubeconfig`: a file, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeChoice {
    /// Run without the API.
    None,
    /// A kubeconfig file.
    File(PathBuf),
}

impl FromStr for KubeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("write a file name, or none".to_owned()),
            "none" => Ok(Self::None),
            file => Ok(Self::File(file.into())),
        }
    }
}

/// The value of `--bpffs`: a folder, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bpffs {
    /// Nothing outlives the agent.
    None,
    /// A folder on a BPF file system, made if need be.
    Folder(PathBuf),
}

impl FromStr for Bpffs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            folder if folder.starts_with('/') => Ok(Self::Folder(folder.into())),
            _ => Err("write a folder with its whole path, or none".to_owned()),
        }
    }
}

/// The value of `--installed-by`: the DaemonSet that an agent is a pod of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSetName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for DaemonSetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("write NAMESPACE/NAME of a DaemonSet".to_owned()),
        }
    }
}

/// Which pods are watched in the Kubernetes API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Watch {
    /// All of the cluster.
    #[default]
    Cluster,
    /// This node's; others are known as far as EndpointSlices tell of them.
    Node,
}

/// How programs hang on interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AttachBy {
    /// TCX links where the kernel has them (6.6 and later), clsact filters before.
    #[default]
    Auto,
    /// TCX links.
    Tcx,
    /// Filters on the clsact queueing discipline.
    Clsact,
}

/// Where the flow log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output (`-`), not rotated.
    Stdout,
    /// A file, rotated by size.
    File(PathBuf),
}

impl FromStr for LogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("write a file name, or - for standard output".to_owned()),
            "-" => Ok(Self::Stdout),
            file => Ok(Self::File(file.into())),
        }
    }
}

/// The URL of an OpenTelemetry collector, `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl(pub String);

impl FromStr for CollectorUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: Option<Uri> = text.parse().ok();
        let known = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https"));
        match url.filter(known).and_then(|url| url.host().map(str::len)) {
            Some(1..) => Ok(Self(text.to_owned())),
            _ => Err("write a URL such as http://HOST:4317".to_owned()),
        }
    }
}

/// How an OpenTelemetry collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OtlpProtocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf in HTTP requests, to URL/v1/logs and URL/v1/metrics.
    Http,
}

/// Where the agent reads translations from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NatSource {
    /// The packet, or conntrack events where the kernel's types are not known.
    #[default]
    Auto,
    /// The conntrack entry that the packet carries (`skb->_nfct`).
    Skb,
    /// Conntrack events over netlink.
    Netlink,
    /// Nowhere.
    Off,
}

/// A name that flow metrics can carry as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum MetricLabel {
    /// Namespace of the initiator.
    SourceNamespace,
    /// Workload of the initiator: the Deployment, DaemonSet … that owns the pod.
    SourceWorkload,
    /// Pod of the initiator.
    SourcePod,
    /// Namespace of the other end.
    DestinationNamespace,
    /// Workload of the other end.
    DestinationWorkload,
    /// Pod of the other end.
    DestinationPod,
}

/// Form of the agent's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What the agent's own log tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What went wrong for good.
    Error,
    /// What went wrong and was dealt with, too.
    Warn,
    /// What the agent does.
    #[default]
    Info,
    /// Why it does so.
    Debug,
    /// Every step.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}
