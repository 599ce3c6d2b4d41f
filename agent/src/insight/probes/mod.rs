//! Health probes, recognised and read: who asks whom how often, and what the answer is.
//!
//! Load balancers are known by their address, kubelets by coming from the node itself to a port
//! and path of the pod's spec. Answers come from the wire: the TCP handshake, and the heads of
//! payload that the kernel side sends of these conversations alone. Intervals and absence are
//! taken from the monotonic clock.
//!
//! [`Probes`] is the one handle: heads go in by [`Probes::heads`], flows by
//! [`Probes::annotate`], time and the API by [`Probes::tick`]; [`Probes::report`] and
//! [`Probes::timeline`] say what is known.

mod answer;
mod exchange;
mod grpc;
mod outcome;
mod recognise;
mod record;
mod report;
mod services;
mod state;
mod timeline;
mod wanted;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use answer::Health;
pub use recognise::Target;
pub use record::Presence;
pub use report::{LastAnswer, LocalEndpoints, Report};
pub use state::Ended;
pub use timeline::{Happening, What};
pub use wanted::ends;

use crate::cluster::{Inventory, Local};
use crate::datapath::Head;
use crate::flow::{Class, Event, Flow, Moment, ObjectName, ProbeHandler, ProbeSpec, Protocol};
use answer::Request;
use record::Record;
use state::{Active, State, kubelet_target};

/// The probes of this node. Cloning gives another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Probes(Arc<Mutex<State>>);

impl Probes {
    /// Takes heads of payload in, those of TCP: probes have no other.
    pub fn heads<'a>(&self, heads: impl IntoIterator<Item = &'a Head>) {
        let mut state = self.state();
        let tcp = |head: &&Head| head.key.protocol == Protocol::TCP.0;
        for head in heads.into_iter().filter(tcp) {
            state.exchanges.take(head);
        }
    }

    /// Says in a named flow what probe it is: class and `probe`. Flows that are none, and what
    /// they say of a service's traffic, are noted.
    pub fn annotate(&self, flow: &mut Flow, inventory: &Inventory, local: &Local, now: Moment) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(service) = &flow.destination_service
            && !inventory.is_probe_source(flow.tuple.source.ip())
            && flow.forward.delta.packets > 0
        {
            state.services.traffic(service, now, &mut state.timeline);
        }
        let Some(tcp) = flow.tcp else {
            return;
        };
        let mut tuples = vec![flow.tuple, flow.nat.translated];
        tuples.extend(flow.hops.iter().filter_map(|hop| hop.tuple));
        tuples.dedup();
        let done = state
            .active
            .get(&flow.connection)
            .filter(|active| active.done.is_some())
            .map(|active| (active.target.clone(), active.spec.clone()));
        let found = match (done, recognise::load_balancer(flow, inventory)) {
            (Some(done), _) => Some(done),
            (None, Some(target)) => Some((target, None)),
            (None, None) => kubelet(state, flow, local, &tuples),
        };
        let Some((target, spec)) = found else {
            state.active.remove(&flow.connection);
            return;
        };
        if matches!(target, Target::Kubelet { .. }) {
            flow.class = Class::KubeletProbe;
        }
        if tcp.forward_flags & nodescope_ebpf::packet::tcp_flag::SYN == 0 {
            // It began before the agent did: how it went is not known.
            return;
        }
        let closed = flow.event == Event::Close;
        let done = state
            .active
            .get(&flow.connection)
            .and_then(|active| active.done);
        let active = Active {
            target,
            spec,
            tuples,
            started_ns: flow.started_ns,
            started: flow.started,
            tcp,
            closed,
            done,
        };
        state.active.insert(flow.connection, active);
        flow.probe = state.judge(flow.connection, now);
        if closed && let Some(over) = state.active.remove(&flow.connection) {
            state.exchanges.forget(&over.tuples);
        }
    }

    /// What time changes; `inventory` when it is another than before.
    pub fn tick(&self, inventory: Option<(&Inventory, &Local)>, now: Moment) {
        let mut state = self.state();
        if let Some((inventory, local)) = inventory {
            state.update(inventory, local, now);
        }
        state.tick(now);
    }

    /// Probes that ended since the last call.
    pub fn ended(&self) -> Vec<Ended> {
        self.state().ended.drain(..).collect()
    }

    /// All targets as they are now.
    pub fn report(&self, now: Moment) -> Vec<Report> {
        report::all(&self.state(), now)
    }

    /// `localEndpoints` of each service as the newest answer and as the API has it.
    pub fn local_endpoints(&self) -> Vec<LocalEndpoints> {
        report::local_endpoints(&self.state())
    }

    /// What happened to a service on this node, the oldest first.
    pub fn timeline(&self, service: &ObjectName) -> Vec<Happening> {
        self.state().timeline.of(service).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half-done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kubelet's probe that a flow is.
fn kubelet(
    state: &State,
    flow: &Flow,
    local: &Local,
    tuples: &[crate::flow::Tuple],
) -> Option<(Target, Option<ProbeSpec>)> {
    let (request, _, _) = state.words(tuples, flow.started_ns);
    let pod = flow.destination.pod()?;
    let mut specs = recognise::kubelet(flow, local, &request);
    // Connected, and nothing was asked: that is what `tcpSocket` does, and nobody else.
    let silent = request == Request::None && is_answered(flow);
    if silent && specs.iter().any(|spec| spec.handler == ProbeHandler::Tcp) {
        specs.retain(|spec| spec.handler == ProbeHandler::Tcp);
    } else if silent && flow.event == Event::Close && asked_nothing(flow) {
        return None;
    }
    // Liveness and readiness may ask the same: it is the turn of the one that waits longer.
    let waited = |spec: &&ProbeSpec| {
        let record = state.records.get(&kubelet_target(&pod.name, spec));
        let seen_ns = record.map_or(0, |record: &Record| record.seen_ns);
        let waited = flow.started_ns.saturating_sub(seen_ns);
        waited / u64::try_from(spec.period.as_nanos().max(1)).unwrap_or(u64::MAX)
    };
    let spec = specs.into_iter().max_by_key(waited)?;
    Some((kubelet_target(&pod.name, spec), Some(spec.clone())))
}

/// Whether the handshake was answered.
fn is_answered(flow: &Flow) -> bool {
    let syn = nodescope_ebpf::packet::tcp_flag::SYN;
    flow.tcp.is_some_and(|tcp| tcp.reply_flags & syn != 0)
}

/// Whether the client's packets are headers only: Ethernet, IP and TCP with timestamps, the SYN
/// with its options. The shortest request is longer than what is left open.
fn asked_nothing(flow: &Flow) -> bool {
    const SLACK: u64 = 20;
    let header = if flow.tuple.source.is_ipv4() { 66 } else { 86 };
    let sent = flow.forward.total;
    sent.bytes <= sent.packets * header + SLACK
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
