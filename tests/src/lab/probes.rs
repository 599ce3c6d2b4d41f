//! Probes of pods by the kubelet.

use std::time::Duration;

use serde_json::{Value, json};

use super::programs::plan::ProbeHandler;

/// What a probe decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Whether the container is to be restarted.
    Liveness,
    /// Whether it gets traffic.
    Readiness,
    /// Whether it has started.
    Startup,
}

impl ProbeKind {
    /// The field of the container's spec.
    pub fn field(self) -> &'static str {
        match self {
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
            Self::Startup => "startupProbe",
        }
    }

    /// As kubelet's metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }
}

/// A probe of a pod's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What it decides.
    pub kind: ProbeKind,
    /// What is asked.
    pub handler: ProbeHandler,
    /// Time between two; whole seconds in the object, as Kubernetes has it.
    pub period: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Failures in a row that count.
    pub failure_threshold: u32,
}

impl Probe {
    /// A probe every second, with a second's patience: Kubernetes' own periods are longer.
    fn new(kind: ProbeKind, handler: ProbeHandler) -> Self {
        Self {
            kind,
            handler,
            period: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
        }
    }

    /// `GET path` on `port`; 200 to 399 is a success.
    pub fn http(kind: ProbeKind, port: u16, path: &str) -> Self {
        let path = path.to_owned();
        Self::new(kind, ProbeHandler::Http { port, path })
    }

    /// A connection to `port`.
    pub fn tcp(kind: ProbeKind, port: u16) -> Self {
        Self::new(kind, ProbeHandler::Tcp { port })
    }

    /// gRPC health of `service` (empty: of the server) on `port`.
    pub fn grpc(kind: ProbeKind, port: u16, service: &str) -> Self {
        let service = service.to_owned();
        Self::new(kind, ProbeHandler::Grpc { port, service })
    }

    /// Sets the period, in seconds, at least one.
    #[must_use]
    pub fn every(mut self, seconds: u32) -> Self {
        self.period = Duration::from_secs(seconds.max(1).into());
        self
    }

    /// Sets the timeout, in seconds, at least one.
    #[must_use]
    pub fn timeout(mut self, seconds: u32) -> Self {
        self.timeout = Duration::from_secs(seconds.max(1).into());
        self
    }

    /// As in the Pod object.
    pub fn json(&self) -> Value {
        let mut value = json!({
            "periodSeconds": self.period.as_secs(), "timeoutSeconds": self.timeout.as_secs(),
            "successThreshold": 1, "failureThreshold": self.failure_threshold,
        });
        match &self.handler {
            ProbeHandler::Http { port, path } => {
                value["httpGet"] = json!({"path": path, "port": port, "scheme": "HTTP"});
            }
            ProbeHandler::Tcp { port } => value["tcpSocket"] = json!({"port": port}),
            ProbeHandler::Grpc { port, service } => {
                value["grpc"] = json!({"port": port, "service": service});
            }
        }
        value
    }
}
