mod dns;
mod headroom;

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::cluster::{Overrides, Service};
use crate::flow::{
    Event, Expected, Identity, NatKind, Pod, ProbeKind, ProbeResult, ProbeStatus, Protocol,
    TcpState, Traffic,
};
use crate::insight::nat::{Destination, InUse};
use crate::insight::probes::{self, LastAnswer, Presence, Target};
use crate::insight::services::{Observed, policy};
use crate::sink::fixture::{at, masqueraded, name, pod_to_pod, socket};

/// What the checks are made of, owned.
struct Known {
    flows: Vec<Flow>,
    inventory: Inventory,
    probes: Vec<ProbeReport>,
    ports: Option<InUse>,
    services: Vec<Report>,
    conntrack: Result<Conntrack, String>,
    more_ports: bool,
    dns: Answers,
    full_percent: u32,
    now: Moment,
}

const SECOND: u64 = 1_000_000_000;

/// So many seconds after the start, by both clocks.
fn moment(seconds: u64) -> Moment {
    Moment {
        wall: at(seconds),
        monotonic_ns: seconds * SECOND,
    }
}

impl Known {
    fn new(flows: Vec<Flow>) -> Self {
        Self {
            flows,
            inventory: Inventory::default(),
            probes: Vec::new(),
            ports: None,
            services: Vec::new(),
            conntrack: Err("not loaded".to_owned()),
            more_ports: false,
            dns: Answers::default(),
            full_percent: FULL_PERCENT,
            now: moment(120),
        }
    }

    fn check(&self, name: &str) -> Finding {
        let facts = Facts {
            node: "node-1",
            now: self.now,
            flows: &self.flows.iter().cloned().map(Arc::new).collect::<Vec<_>>(),
            inventory: &self.inventory,
            view: &NodeView::default(),
            probes: &self.probes,
            snat_ports: self.ports.clone(),
            more_ports: self.more_ports,
            dns: &self.dns,
            full_percent: u64::from(self.full_percent),
            services: &self.services,
            conntrack: self.conntrack.clone(),
        };
        match run(&[name.to_owned()], &facts) {
            Ok(found) if found.len() == 1 => found[0].1.clone(),
            other => panic!("{name}: {:?}", other.map(|found| found.len())),
        }
    }

    fn verdict(&self, name: &str) -> Verdict {
        self.check(name).verdict
    }
}

fn verdict(name: &str, flows: Vec<Flow>) -> Verdict {
    Known::new(flows).verdict(name)
}

#[test]
fn nothing_seen_passes_nothing() {
    let known = Known::new(Vec::new());
    for check in &CHECKS {
        let found = known.check(check.name);
        assert_eq!(found.verdict, Verdict::Unknown, "{}", check.name);
        assert!(!found.evidence.is_empty(), "{}", check.name);
    }
    let facts_of_a_wrong_name = known_names();
    assert!(facts_of_a_wrong_name.contains("dns-answers"));
}

fn known_names() -> String {
    let facts = Facts {
        node: "node-1",
        now: moment(0),
        flows: &[],
        inventory: &Inventory::default(),
        view: &NodeView::default(),
        probes: &[],
        snat_ports: None,
        more_ports: false,
        dns: &Answers::default(),
        full_percent: 90,
        services: &[],
        conntrack: Err(String::new()),
    };
    run(&["no-such".to_owned()], &facts)
        .err()
        .unwrap_or_default()
}

#[test]
fn pods_keep_their_address_among_each_other() {
    let name = "pod-to-pod-no-snat";
    assert_eq!(verdict(name, vec![pod_to_pod()]), Verdict::Pass);
    let mut translated = pod_to_pod();
    translated.nat.kind = NatKind::Snat;
    translated.nat.translated.source = socket([10, 224, 0, 4], 1024);
    let found = Known::new(vec![pod_to_pod(), translated]).check(name);
    assert_eq!(found.verdict, Verdict::Fail);
    assert!(
        found.evidence.contains("10.224.0.4:1024"),
        "{}",
        found.evidence
    );
    // What conntrack did not show is no evidence.
    let mut unseen = pod_to_pod();
    unseen.nat.source = None;
    assert_eq!(verdict(name, vec![unseen]), Verdict::Unknown);
}

#[test]
fn egress_is_held_against_the_configuration() {
    let name = "egress-snat-as-configured";
    let mut flow = masqueraded();
    flow.nat.original = flow.tuple;
    flow.nat.translated.source = socket([10, 224, 0, 4], 1024);
    for (expected, wanted) in [
        (Expected::Translated, Verdict::Pass),
        (Expected::Kept, Verdict::Fail),
        (Expected::Unknown, Verdict::Unknown),
    ] {
        flow.nat.expected = expected;
        assert_eq!(verdict(name, vec![flow.clone()]), wanted, "{expected:?}");
    }
    // Without the configuration nothing is said of it.
    assert_eq!(verdict("masq-config-applied", vec![flow]), Verdict::Unknown);
}

fn report(local_policy: bool, observed: Observed) -> Report {
    let service = Service {
        name: name("shop", "db"),
        kind: "LoadBalancer".to_owned(),
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        ports: Vec::new(),
        local_policy,
        health_check_node_port: local_policy.then_some(31_500),
    };
    Report {
        policy: policy(&service),
        service,
        ready: 2,
        ready_here: 1,
        observed,
        health: None,
    }
}

#[test]
fn services_are_held_against_their_policy() {
    let verdict = |name: &str, local: bool, observed: Observed| {
        let mut known = Known::new(Vec::new());
        known.services = vec![report(local, observed)];
        known.verdict(name)
    };
    let kept = Observed {
        external_kept: 1,
        ..Observed::default()
    };
    let lost = Observed {
        external_lost: 1,
        second_hop: 1,
        second_hop_answered: 1,
        ..Observed::default()
    };
    let local = "local-policy-preserves-client";
    assert_eq!(verdict(local, true, kept.clone()), Verdict::Pass);
    assert_eq!(verdict(local, true, lost.clone()), Verdict::Fail);
    assert_eq!(verdict(local, true, Observed::default()), Verdict::Unknown);
    assert_eq!(verdict(local, false, kept.clone()), Verdict::Unknown);
    let hop = "cluster-policy-second-hop";
    assert_eq!(verdict(hop, false, lost.clone()), Verdict::Pass);
    assert_eq!(verdict(hop, false, kept), Verdict::Unknown);
    let silent = Observed {
        second_hop_answered: 0,
        ..lost.clone()
    };
    assert_eq!(verdict(hop, false, silent), Verdict::Fail);
    let bare = Observed {
        second_hop_kept: 1,
        ..lost
    };
    assert_eq!(verdict(hop, false, bare), Verdict::Fail);
}

/// A probe whose answer has `localEndpoints: 1`.
fn probe(target: Target, presence: Presence, result: ProbeResult) -> ProbeReport {
    ProbeReport {
        target,
        port: 31_500,
        protocol: "http",
        path: Some("/healthz".to_owned()),
        presence,
        interval: Some(Duration::from_secs(5)),
        period: None,
        missing: 0,
        last: Some(LastAnswer {
            result,
            status: ProbeStatus::Http(200),
            latency: None,
            health: Some(probes::Health {
                local_endpoints: 1,
                service_proxy_healthy: None,
            }),
            weight: None,
            at: at(110),
        }),
        known: None,
        results: [1, 0, 0, 0],
        success_ratio: None,
        last_seen: Some(at(75)),
        api_local_endpoints: Some(2),
        agrees: None,
    }
}

fn balancer() -> Target {
    Target::Lb {
        service: Some(name("shop", "db")),
        port: 31_500,
    }
}

#[test]
fn health_answers_are_held_against_the_endpoints() {
    let mut known = Known::new(Vec::new());
    let mut report = probe(balancer(), Presence::Arriving, ProbeResult::Success);
    for (agrees, wanted) in [
        (Some(true), Verdict::Pass),
        (Some(false), Verdict::Fail),
        (None, Verdict::Unknown),
    ] {
        report.agrees = agrees;
        known.probes = vec![report.clone()];
        let found = known.check("healthz-matches-endpoints");
        assert_eq!(found.verdict, wanted, "{agrees:?}");
    }
}

#[test]
fn probes_that_stop_are_absent() {
    let mut known = Known::new(Vec::new());
    for (presence, wanted) in [
        (Presence::Arriving, Verdict::Pass),
        (Presence::Absent, Verdict::Fail),
        (Presence::NeverSeen, Verdict::Unknown),
    ] {
        known.probes = vec![probe(balancer(), presence, ProbeResult::Success)];
        let found = known.check("lb-probes-arriving");
        assert_eq!(found.verdict, wanted, "{presence:?}");
        assert!(found.evidence.contains("shop/db"), "{}", found.evidence);
    }
}

#[test]
fn probes_of_the_kubelet_are_judged_by_their_newest_answer() {
    let target = || Target::Kubelet {
        pod: name("shop", "db-0"),
        container: "c".to_owned(),
        kind: ProbeKind::Liveness,
    };
    let mut known = Known::new(Vec::new());
    for (result, wanted) in [
        (ProbeResult::Success, Verdict::Pass),
        (ProbeResult::Failure, Verdict::Fail),
        (ProbeResult::Timeout, Verdict::Fail),
        (ProbeResult::Unknown, Verdict::Unknown),
    ] {
        let mut report = probe(target(), Presence::Arriving, result);
        report.known = report.last.clone();
        report.known = report.known.filter(|_| result != ProbeResult::Unknown);
        known.probes = vec![report];
        assert_eq!(known.verdict("kubelet-probes-passing"), wanted);
    }
    // An answer that was not captured changes nothing, and is told of.
    let mut report = probe(target(), Presence::Arriving, ProbeResult::Unknown);
    report.known = report.last.clone().map(|last| LastAnswer {
        result: ProbeResult::Failure,
        status: ProbeStatus::Http(500),
        at: at(100),
        ..last
    });
    known.probes = vec![report];
    let found = known.check("kubelet-probes-passing");
    assert_eq!(found.verdict, Verdict::Fail);
    for words in ["500", "20 s ago", "not captured"] {
        assert!(found.evidence.contains(words), "{}", found.evidence);
    }
}

/// A pod of node-1 to one of node-2; answered or not.
fn cross(answered: bool) -> Flow {
    let mut flow = pod_to_pod();
    flow.destination = Identity::Pod(Arc::new(Pod {
        name: name("shop", "db-0"),
        node: "node-2".into(),
        ..Pod::default()
    }));
    if !answered {
        flow.event = Event::Update;
        flow.reply = Traffic::default();
        if let Some(tcp) = &mut flow.tcp {
            tcp.state = TcpState::SynSent;
        }
    }
    flow
}

#[test]
fn the_newest_connection_to_a_node_tells_whether_it_is_reached() {
    let name = "cross-node-route";
    assert_eq!(verdict(name, vec![cross(true)]), Verdict::Pass);
    let known = Known::new(vec![cross(true), cross(false)]);
    let found = known.check(name);
    assert_eq!(found.verdict, Verdict::Fail);
    assert!(found.evidence.contains("route table"), "{}", found.evidence);
    assert!(found.evidence.contains("node-2"), "{}", found.evidence);
    assert_eq!(
        verdict(name, vec![cross(false), cross(true)]),
        Verdict::Pass
    );
    // A SYN of just now may yet be answered.
    let mut fresh = cross(false);
    fresh.started_ns = 119 * SECOND;
    assert_eq!(verdict(name, vec![fresh.clone()]), Verdict::Unknown);
    // The time of day jumps to and fro: how old it is is told by the other clock.
    for wall in [at(0), at(1_000_000)] {
        let mut known = Known::new(vec![fresh.clone()]);
        known.now.wall = wall;
        assert_eq!(known.verdict(name), Verdict::Unknown);
        known.now.monotonic_ns = 125 * SECOND;
        assert_eq!(known.verdict(name), Verdict::Fail);
    }
}

#[test]
fn only_the_newest_record_of_the_window_counts() {
    let recent = Recent::default();
    let mut flow = pod_to_pod();
    flow.event = Event::Open;
    recent.push(&Arc::new(flow.clone()), 100 * SECOND);
    flow.event = Event::Update;
    // A clock that jumped takes nothing away, and keeps nothing.
    flow.time = at(1_000_000);
    recent.push(&Arc::new(flow.clone()), 101 * SECOND);
    let kept = recent.flows(110 * SECOND);
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].event, Event::Update);
    assert_eq!(recent.flows(401 * SECOND).len(), 1);
    assert!(recent.flows(402 * SECOND).is_empty());
}
