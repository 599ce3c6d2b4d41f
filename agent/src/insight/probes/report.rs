//! What is known of probes, for commands and checks.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::answer::Health;
use super::recognise::Target;
use super::record::{Last, Presence, Record};
use super::state::State;
use crate::flow::{Moment, ObjectName, ProbeResult, ProbeStatus};

/// The newest answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastAnswer {
    /// Whether the prober is content.
    pub result: ProbeResult,
    /// What it was.
    pub status: ProbeStatus,
    /// From the first packet to the answer.
    pub latency: Option<Duration>,
    /// The health answer's body.
    pub health: Option<Health>,
    /// The weight that kube-proxy's header says.
    pub weight: Option<u64>,
    /// When.
    pub at: SystemTime,
}

impl From<Last> for LastAnswer {
    fn from(last: Last) -> Self {
        Self {
            result: last.outcome.result,
            status: last.outcome.status,
            latency: last.outcome.latency,
            health: last.outcome.health,
            weight: last.outcome.weight,
            at: last.at,
        }
    }
}

/// One target.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What is probed.
    pub target: Target,
    /// The port.
    pub port: u16,
    /// `http`, `https`, `tcp`, `grpc`; empty while nothing was asked.
    pub protocol: &'static str,
    /// The path of HTTP probes.
    pub path: Option<String>,
    /// Whether probes arrive.
    pub presence: Presence,
    /// Median of the gaps between probes.
    pub interval: Option<Duration>,
    /// The period of the pod's spec.
    pub period: Option<Duration>,
    /// Gaps in which probes were missing.
    pub missing: u64,
    /// The newest answer.
    pub last: Option<LastAnswer>,
    /// The newest answer whose result is known.
    pub known: Option<LastAnswer>,
    /// Ends by [`ProbeResult::ALL`].
    pub results: [u64; 4],
    /// Share of success among those whose end is known.
    pub success_ratio: Option<f64>,
    /// When the newest probe came.
    pub last_seen: Option<SystemTime>,
    /// Ready endpoints on this node by the API, of a service.
    pub api_local_endpoints: Option<u64>,
    /// Whether the answer's `localEndpoints` agrees; none when it cannot be told.
    pub agrees: Option<bool>,
}

/// `localEndpoints` of a service, from both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoints {
    /// The service.
    pub service: ObjectName,
    /// In the newest answer; none when there is none that says it.
    pub probe: Option<u64>,
    /// Ready endpoints on this node by the API.
    pub api: u64,
}

pub(super) fn all(state: &State, now: Moment) -> Vec<Report> {
    let records = state.records.iter();
    records
        .map(|(target, record)| one(state, target, record, now))
        .collect()
}

fn one(state: &State, target: &Target, record: &Record, now: Moment) -> Report {
    let (service, port) = match target {
        Target::Lb { service, port } => (service.as_ref(), *port),
        Target::Kubelet { .. } => (None, record.spec.as_ref().map_or(0, |spec| spec.port)),
    };
    let presence = record.presence(now.monotonic_ns);
    let said = record.last.and_then(|last| {
        let health = last.outcome.health?;
        Some((health.local_endpoints, last.at_ns))
    });
    Report {
        target: target.clone(),
        port,
        protocol: record.protocol,
        path: record.path.clone(),
        presence,
        interval: record.measured(),
        period: record.spec.as_ref().map(|spec| spec.period),
        missing: record.missing,
        last: record.last.map(LastAnswer::from),
        known: record.known.map(LastAnswer::from),
        results: record.results,
        success_ratio: record.success_ratio(),
        last_seen: record.seen,
        api_local_endpoints: service.and_then(|service| state.services.local(service)),
        // What probes that have stopped once said is no evidence for now.
        agrees: service
            .filter(|_| presence == Presence::Arriving)
            .zip(said)
            .and_then(|(service, (said, at_ns))| state.services.agrees(service, said, at_ns)),
    }
}

pub(super) fn local_endpoints(state: &State) -> Vec<LocalEndpoints> {
    // The first of a service's ports that says it.
    let mut said: HashMap<&ObjectName, u64> = HashMap::new();
    for (target, record) in &state.records {
        let health = record.last.and_then(|last| last.outcome.health);
        if let Target::Lb {
            service: Some(service),
            ..
        } = target
            && let Some(health) = health
        {
            said.entry(service).or_insert(health.local_endpoints);
        }
    }
    let services = state.services.all();
    services
        .map(|(service, api)| LocalEndpoints {
            service: service.clone(),
            probe: said.get(service).copied(),
            api,
        })
        .collect()
}
