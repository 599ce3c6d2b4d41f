//! Everything known of probes, in one place.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use super::answer::{self, Answer, Request};
use super::exchange::Exchanges;
use super::outcome::{Outcome, Seen, outcome};
use super::recognise::{self, Target};
use super::record::{Last, Presence, Record};
use super::services::Services;
use super::timeline::{Happening, Timeline, What};
use crate::cluster::{Inventory, Local};
use crate::flow::{Moment, ObjectName, Probe, ProbeKind, ProbeResult, ProbeSpec, Tcp, Tuple};

/// Targets that are remembered at most.
const TARGETS: usize = 4096;

/// Ends that wait for the metrics at most.
const WAITING: usize = 65_536;

/// A load balancer's target that nothing is known of but old probes is forgotten after so long.
const FORGET: u64 = 3_600_000_000_000;

/// A probe that ended, for the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Who probed, and what for.
    pub kind: ProbeKind,
    /// Namespace of the service or pod; empty for the node.
    pub namespace: String,
    /// Name of the service or pod, `kube-proxy` or `port-N`.
    pub target: String,
    /// How it ended.
    pub result: ProbeResult,
    /// From the first packet to the answer.
    pub latency: Option<Duration>,
    /// When the probe came.
    pub seen: SystemTime,
}

/// A connection that is a probe, under way.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) target: Target,
    pub(super) spec: Option<ProbeSpec>,
    pub(super) tuples: Vec<Tuple>,
    pub(super) started_ns: u64,
    pub(super) started: SystemTime,
    pub(super) tcp: Tcp,
    pub(super) closed: bool,
    pub(super) done: Option<Outcome>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) exchanges: Exchanges,
    pub(super) active: HashMap<u64, Active>,
    pub(super) records: BTreeMap<Target, Record>,
    pub(super) services: Services,
    pub(super) timeline: Timeline,
    pub(super) ended: VecDeque<Ended>,
}

impl State {
    /// What was said over a connection: request, answer, time of the answer.
    pub(super) fn words(&self, tuples: &[Tuple], since_ns: u64) -> (Request, Answer, u64) {
        match self.exchanges.find(tuples, since_ns) {
            Some((client, server)) => (
                answer::request(client),
                answer::answer(server),
                server.first_ns,
            ),
            None => (Request::None, Answer::None, 0),
        }
    }

    /// How a probe stands, and, once it has ended, remembers that.
    pub(super) fn judge(&mut self, id: u64, now: Moment) -> Option<Probe> {
        let active = self.active.get(&id)?;
        let (request, answer, answered_ns) = self.words(&active.tuples, active.started_ns);
        let interval = self.records.get(&active.target).and_then(Record::interval);
        let spec = active.spec.as_ref();
        let now_outcome = outcome(&Seen {
            kind: active.target.kind(),
            handler: spec.map(|spec| &spec.handler),
            tcp: active.tcp,
            closed: active.closed,
            request: &request,
            answer: &answer,
            answered_after: (answered_ns > active.started_ns)
                .then(|| Duration::from_nanos(answered_ns - active.started_ns)),
            age: Duration::from_nanos(now.monotonic_ns.saturating_sub(active.started_ns)),
            patience: recognise::patience(spec.map(|spec| spec.timeout), interval),
        });
        let said = active.done.or(now_outcome);
        let probe = describe(active, &request, said);
        let ended = now_outcome.filter(|outcome| outcome.last && active.done.is_none());
        if let Some(ended) = ended {
            self.finish(id, ended, &probe, &request, now);
        }
        Some(probe)
    }

    fn finish(&mut self, id: u64, ended: Outcome, probe: &Probe, request: &Request, now: Moment) {
        let Some(active) = self.active.get_mut(&id) else {
            return;
        };
        active.done = Some(ended);
        let (target, started_ns) = (active.target.clone(), active.started_ns);
        let started = active.started;
        if self.records.len() >= TARGETS && !self.records.contains_key(&target) {
            return;
        }
        let record = self.records.entry(target.clone()).or_default();
        if active.spec.is_some() {
            record.spec.clone_from(&active.spec);
        }
        record.protocol = protocol(active.spec.as_ref(), request, record.protocol);
        if probe.path.is_some() {
            record.path.clone_from(&probe.path);
        }
        let back = std::mem::take(&mut record.told_absent);
        record.arrived(started_ns, started);
        let before = record.last.map(|last| last.outcome);
        record.ended(Last {
            outcome: ended,
            at_ns: now.monotonic_ns,
            at: now.wall,
        });
        if let Target::Lb { service, port } = &target {
            let happened = |what| Happening {
                at_ns: started_ns,
                at: now.wall_of(started_ns),
                service: service.clone(),
                what,
            };
            if back {
                self.timeline
                    .add(happened(What::ProbesResumed { port: *port }));
            }
            let (was, is) = (before.as_ref().map(words_of), words_of(&ended));
            if was.as_ref() != Some(&is) {
                self.timeline.add(happened(What::Answer {
                    port: *port,
                    before: was.unwrap_or_else(|| "none".to_owned()),
                    after: is,
                }));
                if let Some(service) = service.as_ref().filter(|_| before.is_some()) {
                    let good = ended.result == ProbeResult::Success;
                    self.services.answer_changed(service, good);
                }
            }
        }
        let (namespace, name) = target.labels();
        if self.ended.len() == WAITING {
            self.ended.pop_front();
        }
        self.ended.push_back(Ended {
            kind: target.kind(),
            namespace,
            target: name,
            result: ended.result,
            latency: ended.latency,
            seen: started,
        });
    }

    /// What time alone changes.
    pub(super) fn tick(&mut self, now: Moment) {
        let open: Vec<u64> = self
            .active
            .iter()
            .filter(|(_, active)| active.done.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            self.judge(id, now);
        }
        self.exchanges.expire(now.monotonic_ns);
        self.services.tick(now, &mut self.timeline);
        for (target, record) in &mut self.records {
            let absent = record.presence(now.monotonic_ns) == Presence::Absent;
            if let Target::Lb { service, port } = target
                && absent
                && !std::mem::replace(&mut record.told_absent, true)
            {
                self.timeline.add(Happening {
                    at_ns: record.seen_ns,
                    at: now.wall_of(record.seen_ns),
                    service: service.clone(),
                    what: What::ProbesStopped { port: *port },
                });
            }
        }
    }

    /// Takes over what the API says: the targets that should be probed, and forgets those that
    /// are no more.
    pub(super) fn update(&mut self, inventory: &Inventory, local: &Local, now: Moment) {
        self.services
            .update(inventory, local.name(), now, &mut self.timeline);
        if !inventory.is_complete() {
            return;
        }
        let mut expected: BTreeMap<Target, Option<ProbeSpec>> = BTreeMap::new();
        for service in inventory.exposed_services() {
            if let Some(port) = service.health_check_node_port {
                let service = Some(service.name.clone());
                expected.insert(Target::Lb { service, port }, None);
            }
        }
        for pod in inventory.pods_on(local.name()) {
            for spec in &pod.probes {
                let target = kubelet_target(&pod.name, spec);
                expected.insert(target, Some(spec.clone()));
            }
        }
        let exists = |service: &ObjectName| inventory.service_named(service).is_some();
        self.records.retain(|target, record| match target {
            Target::Kubelet { .. } => expected.contains_key(target),
            Target::Lb {
                service: Some(service),
                ..
            } => exists(service),
            // One whose service was not known yet goes on under its name.
            Target::Lb {
                service: None,
                port,
            } => {
                recognise::service_of_port(inventory, *port).is_none()
                    && now.monotonic_ns.saturating_sub(record.seen_ns) < FORGET
            }
        });
        for (target, spec) in expected {
            if self.records.len() >= TARGETS && !self.records.contains_key(&target) {
                continue;
            }
            let record = self.records.entry(target).or_default();
            if let Some(spec) = &spec {
                record.protocol = spec.handler.name();
                record.path = spec.handler.path().map(str::to_owned);
            }
            record.spec = spec;
        }
    }
}

/// The target of a spec.
pub(super) fn kubelet_target(pod: &ObjectName, spec: &ProbeSpec) -> Target {
    Target::Kubelet {
        pod: pod.clone(),
        container: spec.container.clone(),
        kind: spec.kind,
    }
}

fn protocol(spec: Option<&ProbeSpec>, request: &Request, known: &'static str) -> &'static str {
    match (spec, request) {
        (Some(spec), _) => spec.handler.name(),
        (None, Request::Http { .. }) => "http",
        (None, Request::Tls) => "https",
        (None, Request::Http2) => "grpc",
        // A refused connection does not tell what was to be asked.
        (None, Request::None) if !known.is_empty() => known,
        (None, Request::None | Request::Other) => "tcp",
    }
}

/// A probe for the flow record.
fn describe(active: &Active, request: &Request, said: Option<Outcome>) -> Probe {
    let (service, container, port) = match &active.target {
        Target::Lb { service, port } => (service.clone(), None, *port),
        Target::Kubelet { container, .. } => (
            None,
            Some(container.clone()),
            active.spec.as_ref().map_or(0, |spec| spec.port),
        ),
    };
    let asked = match request {
        // What follows the path may be a secret.
        Request::Http { path, .. } => path.split('?').next().map(str::to_owned),
        _ => None,
    };
    let of_spec = || active.spec.as_ref().and_then(|spec| spec.handler.path());
    Probe {
        kind: active.target.kind(),
        service,
        container,
        port,
        path: asked.or_else(|| of_spec().map(str::to_owned)),
        result: said.map(|outcome| outcome.result),
        status: said.map(|outcome| outcome.status),
        local_endpoints: said
            .and_then(|outcome| outcome.health)
            .map(|health| health.local_endpoints),
        latency: said.and_then(|outcome| outcome.latency),
    }
}

/// An outcome as the timeline says it.
fn words_of(outcome: &Outcome) -> String {
    let mut words = format!("{} ({})", outcome.result.name(), outcome.status);
    if let Some(health) = outcome.health {
        words.push_str(&format!(", localEndpoints {}", health.local_endpoints));
    }
    words
}
