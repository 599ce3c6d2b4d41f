use super::*;
use crate::cluster::Service;
use crate::flow::{Class, Event, Identity, NatKind, NatSource, Traffic};
use crate::sink::fixture::{name, pod_to_pod, socket};

fn service(local_policy: bool) -> Service {
    Service {
        name: name("shop", "db"),
        kind: "LoadBalancer".to_owned(),
        cluster_ips: vec![[10, 0, 37, 21].into()],
        external_ips: vec![[10, 224, 0, 100].into()],
        ports: Vec::new(),
        local_policy,
        health_check_node_port: None,
    }
}

/// 192.0.2.9 → VIP, backend chosen; with the source translated if `lost`.
fn external(lost: bool) -> Flow {
    let mut flow = pod_to_pod();
    flow.class = Class::WorldToPod;
    flow.source = Identity::World;
    flow.destination_service = Some(name("shop", "db"));
    flow.tuple.source = socket([192, 0, 2, 9], 5000);
    flow.tuple.destination = socket([10, 224, 0, 100], 80);
    flow.nat.original = flow.tuple;
    flow.nat.translated.source = flow.tuple.source;
    flow.nat.kind = NatKind::Dnat;
    if lost {
        flow.nat.kind = NatKind::Both;
        flow.nat.translated.source = socket([10, 224, 0, 4], 6000);
    }
    flow
}

fn observed(flows: &[Flow]) -> Observed {
    let mut counted = Counted::default();
    let mut observed = Observed::default();
    for flow in flows {
        if counted.is_news(flow)
            && let Some(seen) = seen(flow, Some(&service(false)), "node-1")
        {
            observed.add(seen, flow);
        }
    }
    observed
}

fn report(local_policy: bool, flows: &[Flow]) -> Report {
    Report {
        policy: policy(&service(local_policy)),
        service: service(local_policy),
        ready: 1,
        ready_here: 1,
        observed: observed(flows),
        health: None,
    }
}

#[test]
fn kept_and_lost_against_the_policy() {
    let (kept, lost) = ([external(false)], [external(true)]);
    for (local, flows, client_ip, agrees) in [
        (true, &kept, "kept", Agreement::Yes),
        (true, &lost, "lost", Agreement::No),
        (false, &lost, "lost", Agreement::Yes),
        (false, &kept, "kept", Agreement::No),
    ] {
        let report = report(local, flows);
        assert_eq!((report.client_ip(), report.agrees()), (client_ip, agrees));
    }
    let unseen = report(true, &[]);
    assert_eq!(
        (unseen.client_ip(), unseen.agrees()),
        ("unseen", Agreement::Unknown)
    );
}

#[test]
fn a_connection_is_counted_once_and_when_its_translation_is_known() {
    let mut open = external(true);
    open.event = Event::Open;
    open.reply = Traffic::default();
    let mut update = external(true);
    update.event = Event::Update;
    let close = external(true);
    let all = observed(&[open, update.clone(), update, close.clone()]);
    assert_eq!((all.external_lost, all.external()), (1, 1));
    assert_eq!(all.evidence.len(), 1);
    // A later connection of the same id (the agent's ids never are) would be another.
    assert_eq!(observed(&[close.clone(), close]).external_lost, 2);
}

#[test]
fn second_hops_and_calls_from_inside() {
    let mut far = external(true);
    if let Identity::Pod(pod) = &mut far.destination {
        std::sync::Arc::make_mut(pod).node = "node-2".into();
    }
    let mut vip = external(false);
    vip.source = pod_to_pod().source;
    let mut inside = vip.clone();
    inside.tuple.destination = socket([10, 0, 37, 21], 80);
    let mut probe = external(false);
    probe.class = Class::LbProbe;
    let mut lonely = external(false);
    lonely.nat.kind = NatKind::None;
    lonely.nat.source = Some(NatSource::Skb);
    lonely.reply = Traffic::default();
    let all = observed(&[far, vip, inside, probe, lonely]);
    assert_eq!(
        (all.second_hop, all.second_hop_answered, all.second_hop_kept),
        (1, 1, 0)
    );
    assert_eq!((all.in_cluster_vip, all.in_cluster), (1, 1));
    assert_eq!((all.external(), all.no_backend), (1, 1));
    let words = all
        .evidence
        .iter()
        .any(|line| line.contains("not across the load balancer"));
    assert!(words, "{:?}", all.evidence);
}
