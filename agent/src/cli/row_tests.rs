//! What a line about a flow says.

use super::*;
use crate::flow::Flow as Seen;
use crate::sink::fixture::{masqueraded, ping, pod_to_pod, through_service};
use crate::sink::observer::convert::{record, response};

fn row(flow: &Seen) -> Row {
    Row::new(&response(flow), &record(flow))
}

#[test]
fn a_masqueraded_flow_shows_both_addresses() {
    let row = row(&masqueraded());
    assert_eq!(
        row.cells(true),
        [
            "00:01:40.000",
            "node-1",
            "shop/web-0:40000",
            "10.224.1.2:8080",
            "pod-to-world",
            "TCP",
            "snat 10.224.0.4:60996 masquerade",
            "5/4",
            "500/400",
            "close",
            "-",
            "closed",
            "1.500ms",
            "translated",
            "-",
            "veth0>eth0",
            "0000000000000def",
            "-",
        ]
    );
    assert_eq!(row.tone, Tone::Translated);
    assert_eq!(Row::columns(true).len(), row.cells(true).len());
    assert_eq!(Row::columns(false).len(), row.cells(false).len());
}

#[test]
fn a_service_is_named_beside_its_backend() {
    let row = row(&through_service());
    assert_eq!(row.destination, "shop/db-0:5432 (svc shop/db:80)");
    assert_eq!(row.nat, "dnat 10.0.0.10:80 service");
}

#[test]
fn no_ports_where_there_are_none_and_no_translation_is_not_unknown() {
    let mut flow = ping();
    assert_eq!(row(&flow).source, "10.224.0.4");
    assert_eq!(row(&flow).nat, "-");
    flow.nat.source = None;
    assert_eq!(row(&flow).nat, "?");
}

#[test]
fn addresses_of_ipv6_are_bracketed() {
    let mut record = record(&pod_to_pod());
    record.source = None;
    if let Some(ip) = &mut record.ip {
        ip.source = "fd00::1".to_owned();
    }
    assert_eq!(
        Row::new(&response(&pod_to_pod()), &record).source,
        "[fd00::1]:40000"
    );
}

#[test]
fn a_record_of_another_program_still_has_a_row() {
    let row = Row::new(&GetFlowsResponse::default(), &Flow::default());
    assert_eq!(
        row.cells(false),
        ["-", "-", "?", "?", "-", "-", "?", "-", "-", "-"]
    );
}
