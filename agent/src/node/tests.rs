//! Roles, model and pod look-up on made-up nodes.

mod nature;

use std::sync::Arc;

use crate::flow::Role;

use super::event::Event;
use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A node in the making.
#[derive(Default)]
struct Builder(NodeView);

impl Builder {
    fn link(
        mut self,
        index: u32,
        name: &str,
        kind: Kind,
        change: impl FnOnce(&mut Interface),
    ) -> Self {
        let mut interface = Interface {
            index,
            name: Arc::from(name),
            kind,
            mac: [2, 0, 0, 0, 0, 1],
            up: true,
            master: None,
            peer_elsewhere: false,
            link: None,
            mtu: 1500,
            ethernet: true,
            since: 0,
        };
        change(&mut interface);
        self.0.apply(Event::Link(interface));
        self
    }

    fn pod(self, index: u32, name: &str, master: Option<u32>) -> Self {
        self.link(index, name, Kind::Veth, |link| {
            link.peer_elsewhere = true;
            link.link = Some(2);
            link.master = master;
        })
    }

    fn address(mut self, index: u32, net: &str) -> Result<Self, ipnet::AddrParseError> {
        self.0.apply(Event::Address(index, net.parse()?));
        Ok(self)
    }

    fn route(mut self, net: &str, ifindex: u32) -> Result<Self, ipnet::AddrParseError> {
        let route = Route {
            destination: net.parse()?,
            gateway: None,
            ifindex,
            metric: 0,
        };
        self.0.apply(Event::Routes {
            routes: vec![route],
            replace: false,
        });
        Ok(self)
    }

    fn roles(&self, filter: &InterfaceFilter) -> Vec<(u32, Role)> {
        roles(&self.0, filter).into_iter().collect()
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// eth0 is a veth too, as it is in the lab and in kind.
fn kubenet() -> Result<Builder, ipnet::AddrParseError> {
    Builder::default()
        .link(1, "lo", Kind::Device, |_| ())
        .link(2, "eth0", Kind::Veth, |link| link.peer_elsewhere = true)
        .link(3, "cbr0", Kind::Bridge, |_| ())
        .pod(4, "veth9423965c", Some(3))
        .pod(5, "veth11111111", Some(3))
        .address(2, "10.224.0.4/16")?
        .address(3, "10.244.0.1/24")?
        .route("0.0.0.0/0", 2)?
        .route("10.244.0.0/24", 3)
}

#[test]
fn kubenet_roles_and_model() -> Outcome {
    let node = kubenet()?;
    let all = [
        (2, Role::Uplink),
        (3, Role::Bridge),
        (4, Role::Pod),
        (5, Role::Pod),
    ];
    assert_eq!(node.roles(&InterfaceFilter::default()), all);
    let found = model(&node.0, Some("10.244.0.0/24".parse()?));
    assert_eq!(found.kind, ModelKind::Kubenet);
    assert_eq!(
        found.evidence[0],
        "bridge cbr0 (10.244.0.1/24) with 2 ports: veth9423965c, veth11111111"
    );
    Ok(())
}

#[test]
fn a_filter_narrows_widens_and_reports_what_it_missed() -> Outcome {
    let node = kubenet()?;
    let only = InterfaceFilter::new(&words(&["eth*", "lo", "tun*"]), &[])?;
    assert_eq!(node.roles(&only), [(1, Role::Other), (2, Role::Uplink)]);
    assert_eq!(only.unmatched(&node.0), ["tun*"]);
    let more = InterfaceFilter::new(&words(&["auto", "lo"]), &words(&["veth1*"]))?;
    let expected = [
        (1, Role::Other),
        (2, Role::Uplink),
        (3, Role::Bridge),
        (4, Role::Pod),
    ];
    assert_eq!(node.roles(&more), expected);
    let Err(error) = InterfaceFilter::new(&words(&["veth[0-"]), &[]) else {
        panic!("not a glob")
    };
    assert!(error.to_string().contains("veth[0-"), "{error}");
    Ok(())
}

#[test]
fn a_pair_in_use_on_the_node_is_no_pod_but_one_in_the_making_is() {
    let pair = |up: bool| {
        Builder::default()
            .link(7, "vethA", Kind::Veth, |link| link.link = Some(8))
            .link(8, "vethB", Kind::Veth, |link| {
                (link.link, link.up) = (Some(7), up)
            })
    };
    assert_eq!(pair(true).roles(&InterfaceFilter::default()), []);
    assert_eq!(
        pair(false).roles(&InterfaceFilter::default()),
        [(7, Role::Pod), (8, Role::Pod)]
    );
}

#[test]
fn bridges_count_when_pods_are_on_them_or_may_come() {
    let filter = InterfaceFilter::default();
    let bridge = |name| Builder::default().link(3, name, Kind::Bridge, |_| ());
    assert_eq!(bridge("cbr0").roles(&filter), [(3, Role::Bridge)]);
    assert_eq!(bridge("cni0").roles(&filter), [(3, Role::Bridge)]);
    assert_eq!(bridge("docker0").roles(&filter), []);
    assert_eq!(
        bridge("docker0")
            .pod(4, "veth1", Some(3))
            .roles(&filter)
            .len(),
        2
    );
    let hardware = bridge("cbr0").link(4, "eth1", Kind::Device, |link| link.master = Some(3));
    assert_eq!(hardware.roles(&filter), []);
}

#[test]
fn a_second_way_out_over_a_veth_is_no_pod() -> Outcome {
    let node = Builder::default()
        .pod(9, "eth1", None)
        .address(9, "172.18.0.2/16")?;
    assert_eq!(node.roles(&InterfaceFilter::default()), []);
    let ptp = Builder::default()
        .pod(9, "veth9", None)
        .address(9, "10.1.0.1/32")?;
    assert_eq!(ptp.roles(&InterfaceFilter::default()), [(9, Role::Pod)]);
    Ok(())
}

#[test]
fn an_uplink_that_is_a_bridge_is_noted() -> Outcome {
    let node = Builder::default()
        .link(3, "br0", Kind::Bridge, |_| ())
        .link(4, "eth0", Kind::Device, |link| link.master = Some(3))
        .route("0.0.0.0/0", 3)?;
    assert_eq!(node.roles(&InterfaceFilter::default()), [(3, Role::Uplink)]);
    let notes = role_notes(&node.0);
    assert!(
        notes.len() == 1 && notes[0].contains("bridge br0 (ports: eth0)"),
        "{notes:?}"
    );
    Ok(())
}

#[test]
fn routed_models_differ_in_where_the_pods_addresses_are_from() -> Outcome {
    let node = |subnet: &str, pod: &str| {
        Builder::default()
            .link(2, "eth0", Kind::Device, |_| ())
            .pod(4, "azv292e1839522", None)
            .address(2, subnet)?
            .route("0.0.0.0/0", 2)?
            .route(pod, 4)
    };
    let azure = node("10.220.2.4/24", "10.220.2.14/32")?;
    let found = model(&azure.0, None);
    assert_eq!(found.kind, ModelKind::AzureCni);
    assert!(
        found
            .evidence
            .iter()
            .any(|line| line.ends_with("10.220.2.0/24")),
        "{found:?}"
    );
    let overlay = node("10.224.0.4/16", "10.244.0.14/32")?;
    assert_eq!(
        model(&overlay.0, Some("10.244.0.0/24".parse()?)).kind,
        ModelKind::Overlay
    );
    let ip = "10.244.0.14".parse()?;
    assert_eq!(pod_interface(&overlay.0, ip), Some(4));
    assert_eq!(
        pods_by_interface(&overlay.0)
            .into_iter()
            .collect::<Vec<_>>(),
        [(4, vec![ip])]
    );
    Ok(())
}

#[test]
fn other_models_are_known_by_their_interfaces() -> Outcome {
    let named = |name| model(&Builder::default().pod(4, name, None).0, None).kind;
    assert_eq!(named("lxc0a1b2c"), ModelKind::Cilium);
    assert_eq!(named("cali0a1b2c"), ModelKind::Calico);
    assert_eq!(named("veth0a1b2c"), ModelKind::Other);
    Ok(())
}

#[test]
fn a_bridged_pod_is_found_by_neighbour_and_forwarding_entry() -> Outcome {
    let mut node = kubenet()?.0;
    let (ip, mac) = ("10.244.0.15".parse()?, [0x0a, 0x58, 0x0a, 0xf4, 0, 0x0f]);
    assert_eq!(pod_interface(&node, ip), None);
    node.apply(Event::Fdb(FdbEntry { mac, port: 5 }));
    let mut entry = Neighbour {
        ip,
        ifindex: 3,
        mac: None,
        state: NeighbourState::Failed,
    };
    node.apply(Event::Neighbour(entry));
    assert_eq!(pod_interface(&node, ip), None);
    entry.mac = Some(mac);
    entry.state = NeighbourState::Reachable;
    assert!(node.apply(Event::Neighbour(entry)) && !node.apply(Event::Neighbour(entry)));
    assert_eq!(pod_interface(&node, ip), Some(5));
    assert_eq!(
        pods_by_interface(&node).into_iter().collect::<Vec<_>>(),
        [(5, vec![ip])]
    );
    // Neither the gateway on eth0 nor the node's own address is behind a pod interface.
    assert_eq!(pod_interface(&node, "10.244.0.1".parse()?), None);
    node.apply(Event::LinkGone(5));
    assert_eq!((pod_interface(&node, ip), node.fdb.len()), (None, 0));
    Ok(())
}

#[test]
fn a_replaced_route_takes_the_place_of_the_old_one() -> Outcome {
    let mut node = kubenet()?.0;
    let new = Route {
        destination: "0.0.0.0/0".parse()?,
        gateway: None,
        ifindex: 3,
        metric: 0,
    };
    node.apply(Event::Routes {
        routes: vec![new],
        replace: true,
    });
    assert_eq!(node.default_routes, [3]);
    let worse = Route {
        ifindex: 2,
        metric: 100,
        ..new
    };
    node.apply(Event::Routes {
        routes: vec![worse],
        replace: true,
    });
    assert_eq!(node.default_routes, [3, 2]);
    node.apply(Event::RoutesGone(vec![new]));
    assert_eq!(node.default_routes, [2]);
    Ok(())
}

/// Its link goes down, and with it the route: hooks that were taken off would be missed as soon as
/// it is up again.
#[test]
fn an_uplink_without_its_default_route_stays_one() -> Outcome {
    let built = || {
        Builder::default()
            .link(2, "eth0", Kind::Device, |_| ())
            .link(3, "bond0", Kind::Bond, |_| ())
            .route("0.0.0.0/0", 2)
    };
    let filter = InterfaceFilter::default();
    let mut lost = built()?;
    let routes = lost.0.routes.clone();
    lost.0.apply(Event::RoutesGone(routes));
    assert_eq!(lost.roles(&filter), [(2, Role::Uplink)]);
    let notes = role_notes(&lost.0);
    assert!(
        notes.len() == 1 && notes[0].ends_with("(eth0)"),
        "{notes:?}"
    );

    // A reading of everything knows only what is there; what came before it is remembered.
    let mut read = Builder::default().link(2, "eth0", Kind::Device, |_| ());
    assert_eq!(read.roles(&filter), []);
    read.0.succeed(&lost.0);
    assert_eq!(read.roles(&filter), [(2, Role::Uplink)]);

    // As a part of something else it is none, and another of the same index is none.
    let enslaved = lost.link(2, "eth0", Kind::Device, |link| link.master = Some(3));
    assert_eq!(enslaved.roles(&filter), []);
    let mut gone = built()?;
    gone.0.apply(Event::LinkGone(2));
    let again = gone.link(2, "eth9", Kind::Device, |_| ());
    assert_eq!(again.roles(&filter), []);
    Ok(())
}
