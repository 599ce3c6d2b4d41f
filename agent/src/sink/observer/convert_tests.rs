//! What of a flow is in its record.

use super::*;
use crate::flow::{Direction, Drop};
use crate::sink::fixture;
use crate::sink::observer::identity::reserved;
use crate::sink::observer::structs::{self, Fields};

fn fields(flow: &proto::Flow) -> Fields {
    flow.extensions
        .as_ref()
        .and_then(structs::unpack)
        .unwrap_or_default()
}

#[test]
fn a_masqueraded_flow_has_both_sources() {
    let record = record(&fixture::masqueraded());
    let Some(ip) = &record.ip else {
        panic!("no IP")
    };
    assert_eq!(ip.source, "10.244.0.15");
    assert_eq!(ip.source_xlated, "10.224.0.4");
    assert_eq!(ip.destination, "10.224.1.2");
    assert_eq!(ip.ip_version(), proto::IpVersion::IPv4);
    assert_eq!(
        record.summary,
        "TCP closed 5/4 packets snat 10.224.0.4:60996 (masquerade)"
    );
    assert_eq!(record.verdict(), proto::Verdict::Forwarded);
    assert_eq!(record.is_reply, Some(false));
    assert_eq!(record.traffic_direction(), proto::TrafficDirection::Egress);
    let event = record
        .event_type
        .map(|event| (event.r#type, event.sub_type));
    assert_eq!(event, Some((event_type::TRACE, 11)));
}

#[test]
fn a_service_flow_ends_at_the_backend_and_names_the_service() {
    let record = record(&fixture::through_service());
    assert_eq!(
        record.ip.as_ref().map(|ip| ip.destination.as_str()),
        Some("10.244.1.20")
    );
    let Some(proto::Layer4 {
        protocol: Some(proto::layer4::Protocol::Tcp(tcp)),
    }) = record.l4
    else {
        panic!("no TCP");
    };
    assert_eq!((tcp.source_port, tcp.destination_port), (40_000, 5432));
    let flags = tcp.flags.unwrap_or_default();
    assert!(flags.fin && flags.syn && flags.ack && !flags.rst);
    let service = record.destination_service.as_ref();
    assert_eq!(
        service.map(|s| (&*s.namespace, &*s.name)),
        Some(("shop", "db"))
    );
    let all = fields(&record);
    assert_eq!(
        structs::text(&all, &["nat", "original", "dst"]),
        Some("10.0.0.10")
    );
    assert_eq!(
        structs::number(&all, &["nat", "original", "dport"]),
        Some(80.0)
    );
}

#[test]
fn a_pod_has_name_labels_workload_and_a_stable_number() {
    let record = record(&fixture::pod_to_pod());
    let Some(source) = &record.source else {
        panic!("no source")
    };
    assert_eq!((&*source.namespace, &*source.pod_name), ("shop", "web-0"));
    assert_eq!(
        source.labels,
        ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]
    );
    assert_eq!(source.workloads.len(), 1);
    assert!(source.identity >= reserved::FIRST_FREE && source.identity < 1 << 24);
    let again = super::record(&fixture::masqueraded());
    assert_eq!(
        again.source.map(|again| again.identity),
        Some(source.identity)
    );
    assert_ne!(
        record.destination.map(|other| other.identity),
        Some(source.identity)
    );
}

#[test]
fn nodes_and_the_world_have_reserved_numbers() {
    let endpoint = |identity| identity::endpoint(&identity, "node-1", false);
    assert_eq!(endpoint(fixture::node("node-1")).identity, reserved::HOST);
    assert_eq!(
        endpoint(fixture::node("node-2")).identity,
        reserved::REMOTE_NODE
    );
    assert_eq!(endpoint(Identity::World).labels, ["reserved:world"]);
    assert_eq!(endpoint(Identity::UnknownPod).identity, reserved::UNMANAGED);
}

#[test]
fn the_extensions_have_the_keys_of_the_flow_record() {
    let all = fields(&record(&fixture::masqueraded()));
    let keys: Vec<_> = all.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "class",
            "connection",
            "event",
            "forward",
            "hops",
            "nat",
            "remote_sees",
            "reply",
            "started",
            "tcp"
        ]
    );
    let text = |path: &[&str]| structs::text(&all, path);
    let number = |path: &[&str]| structs::number(&all, path);
    assert_eq!(text(&["event"]), Some("close"));
    assert_eq!(text(&["connection"]), Some("0000000000000def"));
    assert_eq!(text(&["class"]), Some("pod-to-world"));
    assert_eq!(text(&["nat", "kind"]), Some("snat"));
    assert_eq!(text(&["nat", "translated", "src"]), Some("10.224.0.4"));
    assert_eq!(text(&["nat", "source"]), Some("skb"));
    assert_eq!(text(&["nat", "expected"]), Some("translated"));
    assert_eq!(text(&["remote_sees", "ip"]), Some("10.224.0.4"));
    assert_eq!(number(&["remote_sees", "port"]), Some(60_996.0));
    assert_eq!(number(&["forward", "packets"]), Some(1.0));
    assert_eq!(number(&["forward", "packets_total"]), Some(5.0));
    assert_eq!(number(&["reply", "bytes_total"]), Some(400.0));
    assert_eq!(number(&["tcp", "handshake_rtt_seconds"]), Some(0.0015));
    let hops: Vec<_> = structs::list(&all, &["hops"])
        .iter()
        .filter_map(structs::fields)
        .collect();
    assert_eq!(hops.len(), 2);
    assert_eq!(structs::text(hops[0], &["pod"]), Some("shop/web-0"));
    assert_eq!(structs::text(hops[0], &["direction"]), Some("ingress"));
    assert_eq!(
        structs::text(hops[1], &["tuple", "src"]),
        Some("10.224.0.4")
    );
    assert!(structs::at(hops[0], &["tuple"]).is_none());
}

#[test]
fn a_bridge_that_counted_nothing_says_no_counts() {
    let mut flow = fixture::pod_to_pod();
    flow.hops[1].role = Role::Bridge;
    flow.hops[1].forward = None;
    flow.hops[1].reply = None;
    flow.hops[1].direction = Direction::Ingress;
    let all = fields(&record(&flow));
    let bridge = structs::list(&all, &["hops"])
        .get(1)
        .and_then(structs::fields);
    let Some(bridge) = bridge else {
        panic!("no bridge")
    };
    assert!(structs::at(bridge, &["packets"]).is_none());
    assert!(structs::at(bridge, &["reply_bytes"]).is_none());
}

#[test]
fn an_echo_is_one_and_other_icmp_has_type_and_code() {
    let icmp = |flow: &Flow| match record(flow).l4.and_then(|l4| l4.protocol) {
        Some(proto::layer4::Protocol::IcmPv4(icmp)) => Some((icmp.r#type, icmp.code)),
        _ => None,
    };
    let mut flow = fixture::ping();
    assert_eq!(icmp(&flow), Some((8, 0)));
    flow.echo_rtt = None;
    flow.icmp_message = Some((3, 1));
    assert_eq!(icmp(&flow), Some((3, 1)));
}

#[test]
fn a_drop_is_dropped() {
    let mut flow = fixture::pod_to_pod();
    flow.event = Event::Drop;
    let record = record(&flow);
    assert_eq!(record.verdict(), proto::Verdict::Dropped);
    assert_eq!(
        record.event_type.map(|event| event.r#type),
        Some(event_type::DROP)
    );
    assert_eq!(record.drop_reason_desc(), proto::DropReason::Unknown);
}

/// `hubble observe --drop-reason-desc POLICY_DENIED` and `--type drop:133` find it.
#[test]
fn a_reason_that_hubble_has_a_word_for_has_its_number() {
    let of = |reason: &str| {
        let mut flow = fixture::pod_to_pod();
        flow.event = Event::Drop;
        flow.drop = Some(Drop {
            reason: reason.into(),
            interface: "cbr0".into(),
            in_pod: false,
            direction: Direction::Ingress,
            function: None,
        });
        let record = record(&flow);
        let sub_type = record.event_type.map(|event| event.sub_type);
        assert_eq!(sub_type, Some(record.drop_reason_desc), "{reason}");
        record.drop_reason_desc
    };
    assert_eq!(of("NETFILTER_DROP"), 133);
    assert_eq!(of("IP_RPFILTER"), 132);
    assert_eq!(of("IP_OUTNOROUTES"), 169);
    assert_eq!(of("QDISC_DROP"), 0);
}

#[test]
fn the_api_server_is_one_wherever_it_is_but_on_this_node_or_in_a_pod() {
    let at = |identity: Identity| {
        let endpoint = identity::endpoint(&identity, "node-1", true);
        (endpoint.identity, endpoint.labels)
    };
    let (outside, labels) = at(Identity::World);
    assert_eq!(outside, reserved::KUBE_APISERVER);
    assert_eq!(labels, ["reserved:kube-apiserver", "reserved:world"]);
    let (another, labels) = at(fixture::node("node-2"));
    assert_eq!(another, reserved::KUBE_APISERVER);
    assert_eq!(
        labels[..2],
        ["reserved:kube-apiserver", "reserved:remote-node"]
    );
    assert_eq!(at(fixture::node("node-1")).0, reserved::HOST);
    assert!(at(fixture::pod("shop", "web")).0 >= reserved::FIRST_FREE);
    let mut flow = fixture::masqueraded();
    flow.notes.api_server = (false, true);
    let record = record(&flow);
    let numbers = [record.source, record.destination].map(|end| end.map(|end| end.identity));
    assert_eq!(numbers[1], Some(reserved::KUBE_APISERVER));
    assert_ne!(numbers[0], numbers[1]);
}
