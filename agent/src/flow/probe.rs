//! Health probes: what a pod's spec asks for, and what a connection turned out to be.

use std::time::Duration;

use super::identity::ObjectName;

/// Who probes, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// A load balancer asks a node.
    Lb,
    /// The kubelet: is the container to be restarted?
    Liveness,
    /// The kubelet: may the container get traffic?
    Readiness,
    /// The kubelet: has the container started?
    Startup,
}

impl ProbeKind {
    /// The word in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lb => "lb",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeResult {
    /// The prober is content.
    Success,
    /// An answer that says no, or a refused connection.
    Failure,
    /// No answer in time.
    Timeout,
    /// There was an answer that cannot be read (encrypted, or not captured).
    Unknown,
}

impl ProbeResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Timeout, Self::Unknown];

    /// The word in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }
}

/// What the answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeStatus {
    /// The status code of an HTTP answer.
    Http(u16),
    /// A TCP handshake was completed.
    Connected,
    /// The connection was refused (RST in place of SYN+ACK).
    Refused,
    /// The connection was reset before an answer.
    Reset,
    /// Nothing came back.
    NoAnswer,
    /// The `ServingStatus` of a gRPC health answer (grpc.health.v1).
    Grpc(&'static str),
    /// Something came back that cannot be read.
    Unreadable,
}

impl std::fmt::Display for ProbeStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(code) => write!(f, "{code}"),
            Self::Connected => f.write_str("connected"),
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::NoAnswer => f.write_str("no-answer"),
            Self::Grpc(status) => f.write_str(status),
            Self::Unreadable => f.write_str("unreadable"),
        }
    }
}

/// A connection that is a health probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who probes, and what for.
    pub kind: ProbeKind,
    /// The service that a load balancer asks about; none for what is about the whole node.
    pub service: Option<ObjectName>,
    /// The container that the kubelet asks about.
    pub container: Option<String>,
    /// The port that is asked.
    pub port: u16,
    /// The path of an HTTP probe.
    pub path: Option<String>,
    /// How it ended; none while it is under way.
    pub result: Option<ProbeResult>,
    /// What the answer was.
    pub status: Option<ProbeStatus>,
    /// `localEndpoints` of a health-check answer.
    pub local_endpoints: Option<u64>,
    /// From the first packet to the answer.
    pub latency: Option<Duration>,
}

/// How a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProbeHandler {
    /// `httpGet` with the scheme HTTP, and its path.
    Http(String),
    /// `httpGet` with the scheme HTTPS: the answer cannot be read.
    Https(String),
    /// `tcpSocket`.
    Tcp,
    /// `grpc`.
    Grpc,
}

impl ProbeHandler {
    /// The path of an HTTP probe.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Http(path) | Self::Https(path) => Some(path),
            Self::Tcp | Self::Grpc => None,
        }
    }

    /// The word in tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
        }
    }
}

/// A probe of a pod's spec, with defaults filled in and named ports resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    /// Liveness, readiness or startup.
    pub kind: ProbeKind,
    /// The container that it is about.
    pub container: String,
    /// The port that is asked.
    pub port: u16,
    /// How it asks.
    pub handler: ProbeHandler,
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// The spec sets the request's User-Agent, so that it is not the kubelet's.
    pub own_agent: bool,
    /// The container has started: its startup probe is over, and only then do the others begin.
    pub started: bool,
}
