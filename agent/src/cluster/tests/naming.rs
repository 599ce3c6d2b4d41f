//! Flows get their names.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;

use crate::flow::{
    Class, Direction, Event, Expected, Flow, Hop, Identity, Nat, NatCause, NatKind, ObjectName,
    Protocol, Role, Scope, Traffic, Tuple,
};

use super::super::{Inventory, Local, Overrides, name};
use super::{Api, Outcome, at};

const INGRESS: Direction = Direction::Ingress;
const EGRESS: Direction = Direction::Egress;

fn hop(role: Role, direction: Direction) -> Hop {
    Hop {
        interface: Arc::from("eth"),
        ifindex: 4,
        role,
        pod: None,
        direction,
        vlans: Vec::new(),
        forward: None,
        reply: None,
        errors: Default::default(),
        tuple: None,
    }
}

/// A flow from `source` to `destination` that became `after` (the same two when not translated).
fn flow(
    source: &str,
    destination: &str,
    after: Option<(&str, &str)>,
    hops: Vec<Hop>,
) -> Outcome<Flow> {
    let tuple = |from: &str, to: &str| -> Outcome<Tuple> {
        let (source, destination): (SocketAddr, SocketAddr) = (from.parse()?, to.parse()?);
        Ok(Tuple {
            source,
            destination,
            protocol: Protocol::TCP,
        })
    };
    let original = tuple(source, destination)?;
    let translated = match after {
        Some((from, to)) => tuple(from, to)?,
        None => original,
    };
    let kind = match (
        original.source != translated.source,
        original.destination != translated.destination,
    ) {
        (false, false) => NatKind::None,
        (true, false) => NatKind::Snat,
        (false, true) => NatKind::Dnat,
        (true, true) => NatKind::Both,
    };
    Ok(Flow {
        time: at(10),
        started: at(9),
        started_ns: 9_000_000_000,
        event: Event::Open,
        connection: 1,
        node: Arc::from("node-0"),
        tuple: original,
        class: Class::Other,
        scope: None,
        source: Identity::Unknown,
        destination: Identity::Unknown,
        destination_service: None,
        crossed_load_balancer: None,
        forward: Traffic::default(),
        reply: Traffic::default(),
        tcp: None,
        echo_rtt: None,
        icmp_message: None,
        nat: Nat {
            kind,
            original,
            translated,
            cause: NatCause::None,
            expected: Expected::Unknown,
            source: None,
        },
        expectation: None,
        remote_sees: translated.source,
        hops,
        probe: None,
        notes: Default::default(),
        drop: None,
        mark: None,
    })
}

fn local() -> Outcome<Local> {
    Ok(Local::with_addresses(
        "node-0",
        ["10.224.0.4".parse()?, "10.244.0.1".parse()?],
    ))
}

fn named(mut flow: Flow) -> Outcome<Flow> {
    name(&mut flow, &Api::kubenet()?.inventory(), &local()?);
    Ok(flow)
}

fn unnamed(mut flow: Flow) -> Outcome<Flow> {
    name(&mut flow, &Inventory::new(Overrides::default()), &local()?);
    Ok(flow)
}

fn pod_name(name: &str) -> Option<ObjectName> {
    Some(ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    })
}

fn same_node() -> Vec<Hop> {
    vec![
        hop(Role::Pod, INGRESS),
        hop(Role::Bridge, EGRESS),
        hop(Role::Pod, EGRESS),
    ]
}

fn outward() -> Vec<Hop> {
    vec![
        hop(Role::Pod, INGRESS),
        hop(Role::Bridge, INGRESS),
        hop(Role::Uplink, EGRESS),
    ]
}

#[test]
fn pods_of_one_node() -> Outcome {
    let flow = named(flow(
        "10.244.0.15:40000",
        "10.244.0.16:8080",
        None,
        same_node(),
    )?)?;
    assert_eq!(
        (flow.class, flow.scope),
        (Class::PodToPod, Some(Scope::SameNode))
    );
    assert_eq!(flow.source.pod().map(|pod| pod.name.clone()), pod_name("a"));
    assert_eq!(
        flow.destination.pod().map(|pod| pod.name.clone()),
        pod_name("b")
    );
    let pods: Vec<_> = flow.hops.iter().map(|hop| hop.pod.clone()).collect();
    assert_eq!(pods, [pod_name("a"), None, pod_name("b")]);
    assert_eq!(flow.nat.cause, NatCause::None);
    Ok(())
}

#[test]
fn a_pod_of_the_other_node_is_not_put_on_a_hop_here() -> Outcome {
    let flow = named(flow(
        "10.244.0.15:40000",
        "10.244.1.17:8080",
        None,
        outward(),
    )?)?;
    assert_eq!(
        (flow.class, flow.scope),
        (Class::PodToPod, Some(Scope::CrossNode))
    );
    let pods: Vec<_> = flow.hops.iter().map(|hop| hop.pod.clone()).collect();
    assert_eq!(pods, [pod_name("a"), None, None]);
    let arriving = vec![
        hop(Role::Uplink, INGRESS),
        hop(Role::Bridge, EGRESS),
        hop(Role::Pod, EGRESS),
    ];
    let flow = named(self::flow(
        "10.244.1.17:40000",
        "10.244.0.16:8080",
        None,
        arriving,
    )?)?;
    assert_eq!(flow.hops[2].pod, pod_name("b"));
    assert_eq!(flow.scope, Some(Scope::CrossNode));
    Ok(())
}

#[test]
fn masquerade_towards_a_machine_outside() -> Outcome {
    let after = Some(("10.224.0.4:40000", "10.224.1.2:80"));
    let flow = named(flow(
        "10.244.0.15:40000",
        "10.224.1.2:80",
        after,
        outward(),
    )?)?;
    assert_eq!((flow.class, flow.scope), (Class::PodToWorld, None));
    assert_eq!(flow.nat.cause, NatCause::Masquerade);
    Ok(())
}

#[test]
fn a_service_its_backend_and_the_masquerade_of_kube_proxy() -> Outcome {
    let after = Some(("10.244.0.15:40000", "10.244.1.17:8080"));
    let flow = named(flow("10.244.0.15:40000", "10.0.12.7:80", after, outward())?)?;
    assert_eq!(flow.destination_service, pod_name("web"));
    assert_eq!(
        flow.destination.pod().map(|pod| pod.name.clone()),
        pod_name("c")
    );
    assert_eq!(
        (flow.nat.cause, flow.class),
        (NatCause::Service, Class::PodToPod)
    );

    let after = Some(("10.224.0.4:7001", "10.244.1.17:8080"));
    let hops = vec![hop(Role::Uplink, INGRESS), hop(Role::Uplink, EGRESS)];
    let flow = named(self::flow(
        "10.1.2.3:7001",
        "10.224.0.4:30080",
        after,
        hops,
    )?)?;
    assert_eq!(flow.destination_service, pod_name("web"));
    assert_eq!(
        (flow.nat.cause, flow.class),
        (NatCause::KubeProxyMasquerade, Class::WorldToPod)
    );
    Ok(())
}

#[test]
fn what_crossed_a_load_balancer_came_from_outside() -> Outcome {
    let after = Some(("10.244.0.15:40000", "10.244.1.17:8080"));
    let inside = named(flow(
        "10.244.0.15:40000",
        "10.224.0.100:80",
        after,
        outward(),
    )?)?;
    assert_eq!(inside.crossed_load_balancer, Some(false));
    let after = Some(("10.1.2.3:7001", "10.244.0.16:8080"));
    let hops = || vec![hop(Role::Uplink, INGRESS), hop(Role::Pod, EGRESS)];
    let outside = named(flow("10.1.2.3:7001", "10.224.0.100:80", after, hops())?)?;
    assert_eq!(outside.crossed_load_balancer, Some(true));
    // Nothing is said of what this node did not translate, nor of other addresses.
    let untold = [
        flow("10.1.2.3:7001", "10.224.0.100:80", None, hops())?,
        flow("10.1.2.3:7001", "10.224.0.4:30080", after, hops())?,
    ];
    for flow in untold {
        assert_eq!(named(flow)?.crossed_load_balancer, None);
    }
    Ok(())
}

#[test]
fn hairpin_through_ones_own_service() -> Outcome {
    let after = Some(("10.244.0.1:40000", "10.244.0.16:8080"));
    let flow = named(flow(
        "10.244.0.16:40000",
        "10.0.12.7:80",
        after,
        same_node(),
    )?)?;
    assert_eq!(flow.nat.cause, NatCause::Hairpin);
    assert_eq!(flow.scope, Some(Scope::SameNode));
    Ok(())
}

#[test]
fn nodes_probes_and_the_platform() -> Outcome {
    let arriving = || vec![hop(Role::Uplink, INGRESS)];
    let class = |from: &str, to: &str| -> Outcome<Class> {
        Ok(named(flow(from, to, None, arriving())?)?.class)
    };
    assert_eq!(
        class("168.63.129.16:50000", "10.224.0.4:31500")?,
        Class::LbProbe
    );
    assert_eq!(
        class("10.224.0.4:50000", "168.63.129.16:80")?,
        Class::Platform
    );
    assert_eq!(
        class("10.244.0.15:50000", "169.254.169.254:80")?,
        Class::Platform
    );
    assert_eq!(
        class("10.224.0.4:50000", "10.224.0.5:10250")?,
        Class::NodeToNode
    );
    assert_eq!(
        class("10.244.0.1:50000", "10.244.0.16:8080")?,
        Class::NodeToPod
    );
    assert_eq!(
        class("10.244.0.15:50000", "10.224.0.4:10250")?,
        Class::PodToNode
    );
    assert_eq!(
        class("10.224.0.4:50000", "1.1.1.1:443")?,
        Class::NodeToWorld
    );
    assert_eq!(class("1.1.1.1:443", "10.224.0.4:22")?, Class::WorldToNode);
    assert_eq!(class("1.1.1.1:443", "10.244.0.16:22")?, Class::WorldToPod);
    assert_eq!(
        class("10.244.0.15:50000", "224.0.0.251:5353")?,
        Class::Other
    );
    assert_eq!(class("10.244.0.15:50000", "10.0.12.7:81")?, Class::Other);
    Ok(())
}

#[test]
fn without_an_api_the_interfaces_tell_who_is_a_pod() -> Outcome {
    let flow = unnamed(self::flow(
        "10.244.0.15:40000",
        "10.244.0.16:8080",
        None,
        same_node(),
    )?)?;
    assert_eq!(
        (flow.source, flow.destination),
        (Identity::UnknownPod, Identity::UnknownPod)
    );
    assert_eq!(
        (flow.class, flow.scope),
        (Class::PodToPod, Some(Scope::SameNode))
    );

    let after = Some(("10.224.0.4:40000", "10.224.1.2:80"));
    let flow = unnamed(self::flow(
        "10.244.0.15:40000",
        "10.224.1.2:80",
        after,
        outward(),
    )?)?;
    assert_eq!(
        (flow.class, flow.nat.cause),
        (Class::PodToWorld, NatCause::Masquerade)
    );

    let hops = vec![hop(Role::Bridge, EGRESS), hop(Role::Pod, EGRESS)];
    let flow = unnamed(self::flow(
        "10.244.0.1:40000",
        "10.244.0.16:8080",
        None,
        hops,
    )?)?;
    assert_eq!(flow.class, Class::NodeToPod);
    let Identity::Node(node) = &flow.source else {
        panic!("{:?}", flow.source)
    };
    assert_eq!(node.name, "node-0");
    Ok(())
}

#[test]
fn the_api_server_is_where_its_service_says() -> Outcome {
    let mut api = Api::kubenet()?;
    api.slice(json!({
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}
        },
        "addressType": "IPv4", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["20.1.2.3"], "conditions": {"ready": true}}]
    }))?;
    let inventory = api.inventory();
    let told = |mut flow: Flow| -> Outcome<_> {
        name(&mut flow, &inventory, &local()?);
        Ok(flow.notes.api_server)
    };
    let after = Some(("10.224.0.4:40000", "20.1.2.3:443"));
    // By its service, by its own address, and back.
    let by_service = flow("10.244.0.15:40000", "10.0.0.1:443", after, outward())?;
    assert_eq!(told(by_service)?, (false, true));
    let by_address = flow("10.244.0.15:40000", "20.1.2.3:443", None, outward())?;
    assert_eq!(told(by_address)?, (false, true));
    let from_it = flow("20.1.2.3:443", "10.244.0.15:40000", None, outward())?;
    assert_eq!(told(from_it)?, (true, false));
    let elsewhere = flow("10.244.0.15:40000", "20.1.2.4:443", None, outward())?;
    assert_eq!(told(elsewhere)?, (false, false));
    Ok(())
}
