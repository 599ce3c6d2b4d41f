//! The probes of a pod's containers, from its spec.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::flow::{ProbeHandler, ProbeKind, ProbeSpec};

use super::wire;

/// Defaults of the API (`core/v1` Probe): every 10 s, answered within 1 s.
const PERIOD: u64 = 10;
const TIMEOUT: u64 = 1;

/// All probes that cross the network. `exec` probes and those to another host do not reach the
/// pod's interface, and are left out.
pub(super) fn of(spec: &wire::PodSpec, status: &wire::PodStatus) -> Vec<ProbeSpec> {
    // Init containers that restart always are sidecars, which have probes too.
    let containers = spec
        .containers
        .iter()
        .flatten()
        .chain(spec.init_containers.iter().flatten());
    let mut probes = Vec::new();
    for container in containers {
        let started = status
            .container_statuses
            .iter()
            .flatten()
            .chain(status.init_container_statuses.iter().flatten())
            .find(|status| status.name == container.name)
            .and_then(|status| status.started)
            .unwrap_or(false);
        for (kind, probe) in [
            (ProbeKind::Liveness, &container.liveness_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
            (ProbeKind::Startup, &container.startup_probe),
        ] {
            if let Some(probe) = probe {
                probes.extend(one(container, kind, probe, started));
            }
        }
    }
    probes
}

fn one(
    container: &wire::Container,
    kind: ProbeKind,
    probe: &core::Probe,
    started: bool,
) -> Option<ProbeSpec> {
    let mut own_agent = false;
    let (port, handler) = if let Some(http) = &probe.http_get {
        if http.host.as_ref().is_some_and(|host| !host.is_empty()) {
            return None;
        }
        own_agent = http
            .http_headers
            .iter()
            .flatten()
            .any(|header| header.name.eq_ignore_ascii_case("user-agent"));
        let path = http.path.clone().unwrap_or_default();
        // As the kubelet asks: a path begins with a slash.
        let path = if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        };
        let handler = match http.scheme.as_deref() {
            Some("HTTPS") => ProbeHandler::Https(path),
            _ => ProbeHandler::Http(path),
        };
        (number(container, &http.port)?, handler)
    } else if let Some(tcp) = &probe.tcp_socket {
        if tcp.host.as_ref().is_some_and(|host| !host.is_empty()) {
            return None;
        }
        (number(container, &tcp.port)?, ProbeHandler::Tcp)
    } else {
        let grpc = probe.grpc.as_ref()?;
        (u16::try_from(grpc.port).ok()?, ProbeHandler::Grpc)
    };
    let seconds = |given: Option<i32>, default: u64| {
        let given = given.and_then(|n| u64::try_from(n).ok());
        Duration::from_secs(given.filter(|n| *n > 0).unwrap_or(default))
    };
    Some(ProbeSpec {
        kind,
        container: container.name.clone(),
        port,
        handler,
        period: seconds(probe.period_seconds, PERIOD),
        timeout: seconds(probe.timeout_seconds, TIMEOUT),
        own_agent,
        started,
    })
}

/// A port by number, or by the name that the container gives it.
fn number(container: &wire::Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|port| port.name.as_ref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().ok()?,
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port != 0)
}
