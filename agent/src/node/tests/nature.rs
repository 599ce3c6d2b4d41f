//! What interfaces are recognised by: bonds, virtual functions, tunnels, and others that came and
//! went under the same index.

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::*;

/// What an `RTM_NEWLINK` tells, byte for byte as the kernel writes it.
fn told(index: u32, attributes: Vec<LinkAttribute>) -> Result<Event, Box<dyn std::error::Error>> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up;
    message.attributes = attributes;
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let read = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)?;
    Event::from_message(&read).ok_or_else(|| "nothing is told".into())
}

fn named(name: &str) -> LinkAttribute {
    LinkAttribute::IfName(name.to_owned())
}

fn mac(last: u8) -> LinkAttribute {
    LinkAttribute::Address(vec![0, 0x0d, 0x3a, 0, 0, last])
}

fn kind(kind: InfoKind) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])
}

impl Builder {
    fn told(
        mut self,
        index: u32,
        attributes: Vec<LinkAttribute>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        self.0.apply(told(index, attributes)?);
        Ok(self)
    }

    /// Each device beneath: index, what it is, and where it is counted.
    fn beneath(&self) -> Vec<(u32, String, u32)> {
        let roles = roles(&self.0, &InterfaceFilter::default());
        let found = beneath(&self.0, &roles).into_iter();
        found
            .map(|(index, device)| (index, device.part, device.counted_at))
            .collect()
    }
}

/// Azure's accelerated networking: the virtual function has eth0 as its master, the same hardware
/// address, and no kind; neither has eth0 (hv_netvsc).
#[test]
fn a_virtual_function_beneath_eth0_is_counted_there() -> Outcome {
    let node = Builder::default()
        .told(2, vec![named("eth0"), mac(9)])?
        .told(
            3,
            vec![named("enP30832s1"), mac(9), LinkAttribute::Controller(2)],
        )?
        .address(2, "10.224.0.4/16")?
        .route("0.0.0.0/0", 2)?;
    assert_eq!(node.roles(&InterfaceFilter::default()), [(2, Role::Uplink)]);
    assert_eq!(
        node.beneath(),
        [(3, "virtual function of eth0".to_owned(), 2)]
    );
    // Named by hand it has hooks, and is no port of a bridge.
    let asked = InterfaceFilter::new(&words(&["auto", "enP*"]), &[])?;
    assert_eq!(node.roles(&asked), [(2, Role::Uplink), (3, Role::Other)]);
    assert_eq!(node.0.bridge_of(&node.0.interfaces[&3]), None);
    Ok(())
}

/// The slaves are veths here, as in a cluster of containers: no pods for all that.
#[test]
fn slaves_of_a_bond_or_team_are_counted_at_their_master() -> Outcome {
    for (of, word) in [(InfoKind::Bond, "bond"), (InfoKind::Team, "team")] {
        let slave = |name: &str| {
            vec![
                named(name),
                mac(1),
                LinkAttribute::Controller(5),
                LinkAttribute::LinkNetNsId(0),
                kind(InfoKind::Veth),
            ]
        };
        let node = Builder::default()
            .told(3, slave("eth0"))?
            .told(4, slave("eth1"))?
            .told(5, vec![named("up0"), mac(1), kind(of)])?
            .route("0.0.0.0/0", 5)?;
        assert_eq!(node.roles(&InterfaceFilter::default()), [(5, Role::Uplink)]);
        let slave = |index| (index, "slave of up0".to_owned(), 5);
        assert_eq!(node.beneath(), [slave(3), slave(4)]);
        let notes = role_notes(&node.0);
        let note = format!("the {word} up0 (ports: eth0, eth1)");
        assert!(notes.len() == 1 && notes[0].contains(&note), "{notes:?}");
    }
    Ok(())
}

/// The default route leaves by a VLAN on a bond.
#[test]
fn what_carries_a_vlan_is_counted_at_the_vlan() -> Outcome {
    let node = Builder::default()
        .told(2, vec![named("eth0"), mac(1), LinkAttribute::Controller(3)])?
        .told(3, vec![named("bond0"), mac(1), kind(InfoKind::Bond)])?
        .told(
            4,
            vec![
                named("bond0.7"),
                mac(1),
                LinkAttribute::Link(3),
                kind(InfoKind::Vlan),
            ],
        )?
        .route("0.0.0.0/0", 4)?;
    assert_eq!(node.roles(&InterfaceFilter::default()), [(4, Role::Uplink)]);
    let all = [
        (2, "slave of bond0".to_owned(), 4),
        (3, "carries bond0.7".to_owned(), 4),
    ];
    assert_eq!(node.beneath(), all);
    Ok(())
}

/// A macvlan whose device is in another namespace: its `IFLA_LINK` is an index over there.
#[test]
fn a_macvlan_on_a_device_elsewhere_has_nothing_beneath_it() -> Outcome {
    let node = Builder::default()
        .told(2, vec![named("lan0"), mac(7)])?
        .told(
            4,
            vec![
                named("eth0"),
                mac(1),
                LinkAttribute::Link(2),
                LinkAttribute::LinkNetNsId(0),
                kind(InfoKind::MacVlan),
            ],
        )?
        .route("0.0.0.0/0", 4)?;
    assert_eq!(node.roles(&InterfaceFilter::default()), [(4, Role::Uplink)]);
    assert_eq!(node.beneath(), []);
    assert!(role_notes(&node.0)[0].starts_with("eth0 is a macvlan"));
    Ok(())
}

#[test]
fn tunnels_netkit_and_what_has_no_ethernet_header() -> Outcome {
    let pod = |peer: bool| {
        let mut all = vec![
            named("lxc1"),
            kind(InfoKind::Netkit),
            LinkAttribute::Link(9),
        ];
        all.extend(peer.then_some(LinkAttribute::LinkNetNsId(-1)));
        all
    };
    let node = Builder::default()
        .told(2, vec![named("flannel.1"), kind(InfoKind::Vxlan)])?
        .told(3, vec![named("gen0"), kind(InfoKind::Geneve)])?
        .told(4, pod(true))?
        .told(
            9,
            vec![named("nk9"), kind(InfoKind::Netkit), LinkAttribute::Link(5)],
        )?
        .told(5, pod(false))?;
    let all = [(2, Role::Tunnel), (3, Role::Tunnel), (4, Role::Pod)];
    assert_eq!(node.roles(&InterfaceFilter::default()), all);

    let mut message = LinkMessage::default();
    message.header.index = 8;
    message.header.link_layer_type = LinkLayerType::None;
    message.attributes = vec![named("wg0"), kind(InfoKind::Wireguard)];
    let found = Interface::from_message(&message);
    assert!(found.is_some_and(|found| !found.ethernet));
    Ok(())
}

/// Members of a VRF and ports of Open vSwitch are interfaces in their own right.
#[test]
fn a_pod_in_a_vrf_is_a_pod() -> Outcome {
    for master in [InfoKind::Vrf, InfoKind::Other("openvswitch".to_owned())] {
        let node = Builder::default()
            .told(3, vec![named("m0"), kind(master)])?
            .pod(4, "veth1", Some(3));
        assert_eq!(node.roles(&InterfaceFilter::default()), [(4, Role::Pod)]);
        assert_eq!(node.0.bridge_of(&node.0.interfaces[&4]), None);
    }
    Ok(())
}

#[test]
fn a_name_may_change_and_an_index_may_be_used_again() -> Outcome {
    let since = |node: &Builder| node.0.interfaces.get(&4).map(|found| found.since);
    let mut node = kubenet()?;
    let first = since(&node);
    node = node.pod(4, "renamed", Some(3));
    assert_eq!(since(&node), first);
    assert_eq!(&*node.0.name_of(4), "renamed");

    // Out and back between two looks.
    let mut back = kubenet()?;
    back.0.apply(Event::LinkGone(4));
    back = back.pod(4, "veth9423965c", Some(3));
    assert_ne!(since(&back), first);

    // A full reading tells nothing of that: it takes over what events told.
    let mut reading = kubenet()?;
    reading.0.succeed(&back.0);
    assert_eq!(since(&reading), since(&back));
    // What only the reading found is nobody that was known.
    let known: Vec<u64> = back
        .0
        .interfaces
        .values()
        .map(|found| found.since)
        .collect();
    let mut more = kubenet()?.pod(77, "late", Some(3));
    more.0.succeed(&back.0);
    assert!(!known.contains(&more.0.interfaces[&77].since));
    Ok(())
}
