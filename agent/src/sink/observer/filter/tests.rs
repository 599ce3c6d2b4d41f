//! Every filter, on records as the server makes them.

use super::*;
use crate::flow::{Event, Flow as Seen};
use crate::sink::fixture::{masqueraded, ping, pod_to_pod, through_service};
use crate::sink::observer::convert::record;
use crate::sink::proto::flow::{
    Dns, EventTypeFilter, Http, Layer7, NetworkInterface, TrafficDirection, Workload, layer7,
};

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn request(filter: FlowFilter, extra: &Extra) -> GetFlowsRequest {
    GetFlowsRequest {
        whitelist: vec![filter],
        extensions: extra.pack(),
        ..GetFlowsRequest::default()
    }
}

fn passes(filter: FlowFilter, flow: &Flow) -> Result<bool, Error> {
    Ok(Filters::compile(&request(filter, &Extra::default()))?.pass(flow))
}

/// Which of: to a pod, masqueraded, through a service, a ping.
fn which(filter: FlowFilter) -> Result<[bool; 4], Error> {
    which_with(filter, &Extra::default())
}

fn which_with(filter: FlowFilter, extra: &Extra) -> Result<[bool; 4], Error> {
    let filters = Filters::compile(&request(filter, extra))?;
    let pass = |flow: Seen| filters.pass(&record(&flow));
    Ok([
        pass(pod_to_pod()),
        pass(masqueraded()),
        pass(through_service()),
        pass(ping()),
    ])
}

/// A filter with one field set to words.
macro_rules! filter {
    ($field:ident: $($value:literal),+) => {
        FlowFilter { $field: strings(&[$($value),+]), ..FlowFilter::default() }
    };
}

const ALL: [bool; 4] = [true; 4];
const NONE: [bool; 4] = [false; 4];

#[test]
fn no_filter_and_an_empty_filter_let_everything_pass() -> Result<(), Error> {
    assert!(Filters::compile(&GetFlowsRequest::default())?.pass(&record(&ping())));
    assert_eq!(which(FlowFilter::default())?, ALL);
    Ok(())
}

#[test]
fn addresses_exact_or_range() -> Result<(), Error> {
    assert_eq!(
        which(filter!(source_ip: "10.244.0.15"))?,
        [true, true, true, false]
    );
    assert_eq!(
        which(filter!(source_ip: "10.244.0.0/16"))?,
        [true, true, true, false]
    );
    assert_eq!(
        which(filter!(source_ip: "10.224.0.4"))?,
        [false, false, false, true]
    );
    assert_eq!(
        which(filter!(destination_ip: "10.244.1.20"))?,
        [true, false, true, false]
    );
    assert_eq!(which(filter!(destination_ip: "10.0.0.10"))?, NONE);
    assert_eq!(
        which(filter!(source_ip_xlated: "10.224.0.0/24"))?,
        [false, true, false, false]
    );
    assert_eq!(which(filter!(source_ip: "fd00::/8"))?, NONE);
    Ok(())
}

#[test]
fn addresses_and_ports_before_and_after_translation_when_asked() -> Result<(), Error> {
    let nat = Extra {
        nat_tuples: true,
        ..Extra::default()
    };
    assert_eq!(
        which_with(filter!(destination_ip: "10.0.0.10"), &nat)?,
        [false, false, true, false]
    );
    assert_eq!(
        which_with(filter!(source_ip: "10.224.0.4"), &nat)?,
        [false, true, false, true]
    );
    assert_eq!(
        which_with(filter!(source_port: "60996"), &nat)?,
        [false, true, false, false]
    );
    assert_eq!(
        which_with(filter!(destination_port: "80"), &nat)?,
        [false, false, true, false]
    );
    Ok(())
}

#[test]
fn ports_single_or_range() -> Result<(), Error> {
    assert_eq!(
        which(filter!(destination_port: "5432"))?,
        [true, false, true, false]
    );
    assert_eq!(
        which(filter!(destination_port: "5432", "8080"))?,
        [true, true, true, false]
    );
    assert_eq!(
        which(filter!(destination_port: "8000-9000"))?,
        [false, true, false, false]
    );
    assert_eq!(
        which(filter!(source_port: "40000"))?,
        [true, true, true, false]
    );
    assert_eq!(which(filter!(destination_port: "80"))?, NONE);
    Ok(())
}

#[test]
fn pods_by_namespace_and_prefix() -> Result<(), Error> {
    assert_eq!(
        which(filter!(source_pod: "shop/web"))?,
        [true, true, true, false]
    );
    assert_eq!(
        which(filter!(source_pod: "shop/"))?,
        [true, true, true, false]
    );
    assert_eq!(which(filter!(source_pod: "/"))?, [true, true, true, false]);
    assert_eq!(
        which(filter!(destination_pod: "/db"))?,
        [true, false, true, false]
    );
    assert_eq!(which(filter!(source_pod: "web"))?, NONE);
    assert_eq!(which(filter!(source_pod: "shop/eb"))?, NONE);
    Ok(())
}

#[test]
fn services_workloads_identities_labels() -> Result<(), Error> {
    let service = [false, false, true, false];
    assert_eq!(which(filter!(destination_service: "shop/db"))?, service);
    assert_eq!(which(filter!(source_service: "shop/db"))?, NONE);
    assert_eq!(
        which(filter!(destination_label: "app=db"))?,
        [true, false, true, false]
    );
    assert_eq!(
        which(filter!(destination_label: "k8s:app in (db,web)"))?,
        [true, false, true, true]
    );
    assert_eq!(
        which(filter!(source_label: "reserved:host"))?,
        [false, false, false, true]
    );
    assert_eq!(
        which(filter!(destination_label: "!app"))?,
        [false, true, false, false]
    );
    let workload = Workload {
        name: "web".to_owned(),
        kind: String::new(),
    };
    let filter = FlowFilter {
        source_workload: vec![workload],
        ..FlowFilter::default()
    };
    assert_eq!(which(filter)?, [true, true, true, false]);
    let filter = FlowFilter {
        destination_identity: vec![2],
        ..FlowFilter::default()
    };
    assert_eq!(which(filter)?, [false, true, false, false]);
    let filter = FlowFilter {
        source_identity: vec![1, 2],
        ..FlowFilter::default()
    };
    assert_eq!(which(filter)?, [false, false, false, true]);
    let filter = FlowFilter {
        destination_workload: vec![Workload {
            name: "db".to_owned(),
            kind: "Deployment".to_owned(),
        }],
        ..FlowFilter::default()
    };
    assert_eq!(which(filter)?, [true, false, true, false]);
    Ok(())
}

#[test]
fn protocols_in_any_case() -> Result<(), Error> {
    assert_eq!(which(filter!(protocol: "TCP"))?, [true, true, true, false]);
    assert_eq!(
        which(filter!(protocol: "icmp"))?,
        [false, false, false, true]
    );
    assert_eq!(
        which(filter!(protocol: "icmpv4", "udp"))?,
        [false, false, false, true]
    );
    assert_eq!(which(filter!(protocol: "icmpv6"))?, NONE);
    assert_eq!(which(filter!(protocol: "http", "dns", "sctp"))?, NONE);
    Ok(())
}

#[test]
fn node_globs() -> Result<(), Error> {
    for pattern in ["node-1", "node-*", "default/node-?", "*/", "default/"] {
        let filter = FlowFilter {
            node_name: strings(&[pattern]),
            ..FlowFilter::default()
        };
        assert_eq!(which(filter)?, ALL, "{pattern}");
    }
    assert_eq!(which(filter!(node_name: "node"))?, NONE);
    assert_eq!(which(filter!(node_name: "other/node-1"))?, NONE);
    Ok(())
}

#[test]
fn kinds_of_event_direction_version_interface_flags() -> Result<(), Error> {
    let event = |r#type, match_sub_type, sub_type| FlowFilter {
        event_type: vec![EventTypeFilter {
            r#type,
            match_sub_type,
            sub_type,
        }],
        ..FlowFilter::default()
    };
    assert_eq!(which(event(4, false, 9))?, ALL);
    assert_eq!(which(event(4, true, 11))?, [true, true, true, false]);
    assert_eq!(which(event(1, false, 0))?, NONE);
    let direction = vec![TrafficDirection::Ingress.into()];
    let filter = FlowFilter {
        traffic_direction: direction,
        ..FlowFilter::default()
    };
    assert_eq!(which(filter)?, [false, false, false, true]);
    let filter = FlowFilter {
        ip_version: vec![IpVersion::IPv6.into()],
        ..FlowFilter::default()
    };
    assert_eq!(which(filter)?, NONE);
    let interface = NetworkInterface {
        index: 0,
        name: "eth0".to_owned(),
    };
    let filter = FlowFilter {
        interface: vec![interface],
        ..FlowFilter::default()
    };
    assert_eq!(which(filter)?, [true, true, true, false]);
    let flags = |rst| TcpFlags {
        syn: true,
        rst,
        ..TcpFlags::default()
    };
    let filter = |rst| FlowFilter {
        tcp_flags: vec![flags(rst)],
        ..FlowFilter::default()
    };
    assert_eq!(which(filter(false))?, [true, true, true, false]);
    assert_eq!(which(filter(true))?, NONE);
    Ok(())
}

#[test]
fn verdicts_and_replies() -> Result<(), Error> {
    let mut dropped = pod_to_pod();
    dropped.event = Event::Drop;
    let dropped = record(&dropped);
    let verdict = |verdict: Verdict| FlowFilter {
        verdict: vec![verdict.into()],
        ..FlowFilter::default()
    };
    assert_eq!(which(verdict(Verdict::Forwarded))?, ALL);
    assert!(passes(verdict(Verdict::Dropped), &dropped)?);
    assert!(!passes(verdict(Verdict::Forwarded), &dropped)?);
    // A reason is asked for of drops only, the unknown one too.
    let reason = FlowFilter {
        drop_reason_desc: vec![0],
        ..FlowFilter::default()
    };
    assert_eq!(which(reason.clone())?, NONE);
    assert!(passes(reason, &dropped)?);
    let reply = |reply| FlowFilter {
        reply: vec![reply],
        ..FlowFilter::default()
    };
    assert_eq!(which(reply(false))?, ALL);
    assert_eq!(which(reply(true))?, NONE);
    let unknown = Flow {
        is_reply: None,
        ..record(&pod_to_pod())
    };
    assert!(!passes(reply(false), &unknown)? && !passes(reply(true), &unknown)?);
    let unknown = Flow {
        is_reply: None,
        ..dropped
    };
    assert!(passes(reply(false), &unknown)? && !passes(reply(true), &unknown)?);
    Ok(())
}

#[test]
fn application_layer_filters_need_application_layer_flows() -> Result<(), Error> {
    let with = |layer7| Flow {
        l7: Some(Layer7 {
            record: Some(layer7),
            ..Layer7::default()
        }),
        destination_names: strings(&["api.example.com."]),
        uuid: "u-1".to_owned(),
        ..record(&pod_to_pod())
    };
    let http = with(layer7::Record::Http(Http {
        code: 404,
        method: "GET".to_owned(),
        url: "http://shop/cart/7?x=1".to_owned(),
        ..Http::default()
    }));
    let query = "api.example.com.".to_owned();
    let dns = with(layer7::Record::Dns(Dns {
        query,
        ..Dns::default()
    }));
    for (filter, on_http, on_dns) in [
        (filter!(http_status_code: "404"), true, false),
        (filter!(http_status_code: "4+"), true, false),
        (filter!(http_status_code: "5+"), false, false),
        (filter!(http_method: "get"), true, false),
        (filter!(http_path: "^/cart/[0-9]+$"), true, false),
        (filter!(http_url: "shop/cart"), true, false),
        (filter!(dns_query: "example"), false, true),
        (filter!(protocol: "http"), true, false),
        (filter!(protocol: "dns"), false, true),
        (filter!(destination_fqdn: "*.Example.com"), true, true),
        (filter!(source_fqdn: "*.example.com"), false, false),
        (filter!(uuid: "u-1"), true, true),
    ] {
        let text = format!("{filter:?}");
        assert_eq!(passes(filter.clone(), &http)?, on_http, "{text}");
        assert_eq!(passes(filter, &dns)?, on_dns, "{text}");
    }
    assert_eq!(which(filter!(http_status_code: "4+"))?, NONE);
    Ok(())
}

#[test]
fn fields_are_anded_filters_ored_and_the_blacklist_wins() -> Result<(), Error> {
    let both = FlowFilter {
        source_pod: strings(&["shop/web"]),
        destination_port: strings(&["8080"]),
        ..FlowFilter::default()
    };
    assert_eq!(which(both.clone())?, [false, true, false, false]);
    let request = GetFlowsRequest {
        whitelist: vec![both, filter!(protocol: "icmp")],
        blacklist: vec![filter!(source_ip_xlated: "10.224.0.4")],
        ..GetFlowsRequest::default()
    };
    let filters = Filters::compile(&request)?;
    assert!(filters.pass(&record(&ping())));
    assert!(!filters.pass(&record(&masqueraded())));
    assert!(!filters.pass(&record(&pod_to_pod())));
    Ok(())
}

#[test]
fn class_and_snat_of_nodescope() -> Result<(), Error> {
    let classes = Extra {
        classes: strings(&["pod-to-pod", "node-to-pod"]),
        ..Extra::default()
    };
    assert_eq!(
        which_with(FlowFilter::default(), &classes)?,
        [true, false, true, true]
    );
    let snat = |snat| Extra {
        snat: Some(snat),
        ..Extra::default()
    };
    assert_eq!(
        which_with(FlowFilter::default(), &snat(true))?,
        [false, true, false, false]
    );
    assert_eq!(
        which_with(FlowFilter::default(), &snat(false))?,
        [true, false, true, true]
    );
    Ok(())
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    let filters = [
        filter!(source_ip: "10.0.0.300"),
        filter!(destination_port: "http"),
        filter!(source_port: "9-1"),
        filter!(protocol: "carrier-pigeon"),
        filter!(source_pod: ""),
        filter!(destination_service: "a/b/c"),
        filter!(source_label: "a=b c"),
        filter!(node_name: ""),
        filter!(http_status_code: "4"),
        filter!(http_path: "("),
        filter!(source_fqdn: ""),
    ];
    for filter in filters {
        let text = format!("{filter:?}");
        let Err(error) = passes(filter, &record(&ping())) else {
            panic!("accepted: {text}")
        };
        assert!(text.contains(error.field), "{error}");
    }
    let classes = Extra {
        classes: strings(&["no-such-class"]),
        ..Extra::default()
    };
    assert!(which_with(FlowFilter::default(), &classes).is_err());
}
