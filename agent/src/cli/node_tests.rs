//! What the page about a node says.

use super::super::snapshot::{same, same_pages};
use super::*;
use crate::sink::proto::node::{ApiState, FlowTable, PodAddress, PodPath, ProgramCost};

fn node() -> DescribeResponse {
    let hook = |packets, unattributed_packets| HookCounts {
        packets,
        unattributed_packets,
        ..HookCounts::default()
    };
    let pod = PodAddress {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        ip: "10.244.0.15".to_owned(),
    };
    DescribeResponse {
        name: "node-1".to_owned(),
        network_model: "kubenet".to_owned(),
        evidence: vec!["cbr0 has pod ports".to_owned(), "no CNI".to_owned()],
        version: "0.1.0".to_owned(),
        flow_table: Some(FlowTable {
            entries: 3,
            limit: 8,
        }),
        programs: vec![
            ProgramCost {
                program: "port_egress".to_owned(),
                runs: 3,
                nanoseconds: 300,
            },
            ProgramCost {
                program: "port_ingress".to_owned(),
                runs: 2,
                nanoseconds: 161,
            },
        ],
        api: Some(ApiState {
            state: "failing".to_owned(),
            detail: "401".to_owned(),
        }),
        interfaces: vec![
            Interface {
                name: "veth0".to_owned(),
                role: "pod".to_owned(),
                kind: "veth".to_owned(),
                master: "cbr0".to_owned(),
                attached: "tcx".to_owned(),
                pods: vec![pod],
                ingress: Some(hook(5, 1)),
                egress: Some(hook(4, 2)),
                ..Interface::default()
            },
            Interface {
                name: "eth0".to_owned(),
                error: "not permitted".to_owned(),
                ..Interface::default()
            },
        ],
        ..DescribeResponse::default()
    }
}

#[test]
fn a_node_with_a_pod_and_an_interface_that_failed() {
    let wanted = "\
Node            node-1
Network model   kubenet
  because       cbr0 has pod ports
  and           no CNI
Agent           0.1.0
Flow table      3 of 8 entries
Cost of hooks   port_egress 100 ns/packet, 3 packets
  and           port_ingress 80 ns/packet, 2 packets
Kubernetes API  failing (401)

INTERFACE  ROLE  KIND  MASTER  ATTACHED             PODS                    IN(PACKETS)  \
OUT(PACKETS)  UNATTRIBUTED
veth0      pod   veth  cbr0    tcx                  shop/web-0 10.244.0.15  5            \
4             3
eth0       -     -     -       none: not permitted  -                       -            \
-             0
";
    let shown = |wide| {
        let mut page = Page::new(Style::default());
        show(&mut page, &node(), wide);
        page.text().to_owned()
    };
    assert_eq!(shown(false), wanted);
    assert!(shown(true).contains("ADDRESSES"));
}

#[test]
fn pages_as_they_were() {
    let mut node = node();
    node.pods = vec![PodPath {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        ip: "10.244.0.15".to_owned(),
        interface: "veth0".to_owned(),
        index: 7,
        peer_index: 2,
        bridge: "cbr0".to_owned(),
        mac: "02:00:00:00:00:0f".to_owned(),
        neighbour: "reachable".to_owned(),
        neighbour_interface: "cbr0".to_owned(),
        route: "10.244.0.0/24 dev cbr0".to_owned(),
    }];
    same_pages("node", |page| show(page, &node, false));
    let mut page = Page::new(Style::default());
    show(&mut page, &node, true);
    same("node-wide", page.text());
    same("node-compact", &compact(&node));
}
