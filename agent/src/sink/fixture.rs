//! Flows for the tests of this room.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::flow::{
    Class, Counts, Direction, Event, Expected, Flow, Hop, Identity, Nat, NatCause, NatKind,
    NatSource, Node, Notes, ObjectName, Pod, Protocol, Role, Scope, Tcp, TcpState, Traffic, Tuple,
    Workload,
};
use crate::sink::observer::structs;
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// A time, in seconds since the epoch.
pub fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

/// An address and port.
pub fn socket(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(ip), port)
}

/// A name in a namespace.
pub fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// A pod `name-0` of the deployment `name`, labelled `app=name`.
pub fn pod(namespace: &str, app: &str) -> Identity {
    Identity::Pod(Arc::new(Pod {
        name: name(namespace, &format!("{app}-0")),
        workload: Some(Arc::new(Workload {
            name: app.to_owned(),
            kind: "Deployment".to_owned(),
        })),
        labels: Arc::new([("app".to_owned(), app.to_owned())].into()),
        ..Pod::default()
    }))
}

/// A node's address.
pub fn node(name: &str) -> Identity {
    Identity::Node(Arc::new(Node {
        name: name.to_owned(),
        ..Node::default()
    }))
}

/// Traffic of so many packets of 100 bytes, the last of them since the last record.
pub fn traffic(packets: u64) -> Traffic {
    let counts = |packets| Counts {
        packets,
        bytes: packets * 100,
    };
    Traffic {
        delta: counts(packets.min(1)),
        total: counts(packets),
    }
}

fn hop(interface: &str, role: Role, direction: Direction) -> Hop {
    Hop {
        interface: interface.into(),
        ifindex: 7,
        role,
        pod: (role == Role::Pod).then(|| name("shop", "web-0")),
        direction,
        forward: Some(Counts {
            packets: 5,
            bytes: 500,
        }),
        reply: Some(Counts {
            packets: 4,
            bytes: 400,
        }),
        vlans: Vec::new(),
        errors: Default::default(),
        tuple: None,
    }
}

/// shop/web-0 to shop/db-0 on another node, over TCP, by address.
pub fn pod_to_pod() -> Flow {
    let tuple = Tuple {
        source: socket([10, 244, 0, 15], 40_000),
        destination: socket([10, 244, 1, 20], 5432),
        protocol: Protocol::TCP,
    };
    Flow {
        time: at(100),
        started: at(90),
        started_ns: 90_000_000_000,
        event: Event::Close,
        connection: 0xabc,
        node: "node-1".into(),
        tuple,
        class: Class::PodToPod,
        scope: Some(Scope::CrossNode),
        source: pod("shop", "web"),
        destination: pod("shop", "db"),
        destination_service: None,
        crossed_load_balancer: None,
        forward: traffic(5),
        reply: traffic(4),
        tcp: Some(Tcp {
            state: TcpState::Closed,
            handshake_rtt: Some(Duration::from_micros(1500)),
            forward_flags: 0x13,
            reply_flags: 0x12,
            ..Tcp::default()
        }),
        echo_rtt: None,
        icmp_message: None,
        nat: Nat {
            kind: NatKind::None,
            original: tuple,
            translated: tuple,
            cause: NatCause::None,
            expected: Expected::Kept,
            source: Some(NatSource::Skb),
        },
        expectation: None,
        remote_sees: tuple.source,
        hops: vec![
            hop("veth0", Role::Pod, Direction::Ingress),
            hop("eth0", Role::Uplink, Direction::Egress),
        ],
        probe: None,
        notes: Notes::default(),
        drop: None,
        mark: None,
    }
}

/// shop/web-0 to 10.224.1.2, masqueraded as the node.
pub fn masqueraded() -> Flow {
    let mut flow = pod_to_pod();
    flow.connection = 0xdef;
    flow.class = Class::PodToWorld;
    flow.scope = None;
    flow.destination = Identity::World;
    flow.tuple.destination = socket([10, 224, 1, 2], 8080);
    flow.nat.kind = NatKind::Snat;
    flow.nat.cause = NatCause::Masquerade;
    flow.nat.expected = Expected::Translated;
    flow.nat.original = flow.tuple;
    flow.nat.translated = Tuple {
        source: socket([10, 224, 0, 4], 60_996),
        ..flow.tuple
    };
    flow.remote_sees = flow.nat.translated.source;
    if let Some(uplink) = flow.hops.last_mut() {
        uplink.tuple = Some(flow.nat.translated);
    }
    flow
}

/// shop/web-0 to the service shop/db at 10.0.0.10:80, answered by shop/db-0 at port 5432.
pub fn through_service() -> Flow {
    let mut flow = pod_to_pod();
    let backend = flow.tuple.destination;
    flow.connection = 0x123;
    flow.tuple.destination = socket([10, 0, 0, 10], 80);
    flow.destination_service = Some(name("shop", "db"));
    flow.nat.kind = NatKind::Dnat;
    flow.nat.cause = NatCause::Service;
    flow.nat.original = flow.tuple;
    flow.nat.translated = Tuple {
        destination: backend,
        ..flow.tuple
    };
    flow
}

/// A ping from the node `node-1` to shop/web-0.
pub fn ping() -> Flow {
    let mut flow = pod_to_pod();
    flow.tuple = Tuple {
        source: socket([10, 224, 0, 4], 77),
        destination: socket([10, 244, 0, 15], 77),
        protocol: Protocol::ICMP,
    };
    flow.connection = 0x456;
    flow.class = Class::NodeToPod;
    flow.scope = None;
    flow.source = node("node-1");
    flow.destination = pod("shop", "web");
    flow.tcp = None;
    flow.echo_rtt = Some(Duration::from_millis(2));
    flow.nat.original = flow.tuple;
    flow.nat.translated = flow.tuple;
    flow.remote_sees = flow.tuple.source;
    flow.hops = vec![hop("veth0", Role::Pod, Direction::Egress)];
    flow
}

/// The record with the keys of its extensions sorted: their order on the wire says nothing.
pub fn sorted(mut record: GetFlowsResponse) -> GetFlowsResponse {
    if let Some(ResponseTypes::Flow(flow)) = &mut record.response_types {
        flow.extensions = flow
            .extensions
            .as_ref()
            .and_then(structs::unpack)
            .map(structs::pack);
    }
    record
}
