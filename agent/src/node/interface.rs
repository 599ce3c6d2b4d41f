//! One network interface, reduced to what hooks, roles and people need.

use std::sync::Arc;

use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

/// What an interface is made of (`IFLA_INFO_KIND`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One end of a pair.
    Veth,
    /// One end of a pair made for eBPF (6.7 and later).
    Netkit,
    /// A Linux bridge.
    Bridge,
    /// An 802.1Q sub-interface.
    Vlan,
    /// A device with an address of its own on another's wire (macvlan, macvtap).
    Macvlan,
    /// A device that shares another's hardware address (ipvlan, ipvtap).
    Ipvlan,
    /// A VXLAN tunnel.
    Vxlan,
    /// A Geneve tunnel.
    Geneve,
    /// Several devices as one.
    Bond,
    /// The same, steered from outside the kernel.
    Team,
    /// No `IFLA_INFO_KIND`: hardware, or the loopback.
    Device,
    /// Any other software device.
    Other,
}

/// A network interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index in the node's network namespace.
    pub index: u32,
    /// Name, for example `veth9423965c`.
    pub name: Arc<str>,
    /// What it is made of.
    pub kind: Kind,
    /// Hardware address; zero for devices that have none of six bytes.
    pub mac: [u8; 6],
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Index of the device that it is a part of: a bridge, a bond, or the paravirtual device that
    /// sends and receives by it (`IFLA_MASTER`).
    pub master: Option<u32>,
    /// One end of a pair whose other end is in another network namespace (`IFLA_LINK_NETNSID` is
    /// present).
    pub peer_elsewhere: bool,
    /// `IFLA_LINK`: index of the other end of a pair (in *its* namespace, the number in
    /// `veth1@if15`), or of the device of this namespace below a VLAN or macvlan.
    pub link: Option<u32>,
    /// Largest packet in bytes, link-layer header not included.
    pub mtu: u32,
    /// Whether its frames have an Ethernet header (`ARPHRD_ETHER`, and the loopback's, whose
    /// header is empty).
    pub ethernet: bool,
    /// Tells this interface from others that had its index before: an index is free again when its
    /// interface is deleted or moved to another namespace. Kept by the view.
    pub since: u64,
}

impl Interface {
    /// Reads an `RTM_NEWLINK`; `None` when it carries no name.
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        let mut interface = Self {
            index: message.header.index,
            name: Arc::from(""),
            kind: Kind::Device,
            mac: [0; 6],
            up: message.header.flags.contains(LinkFlags::Up),
            master: None,
            peer_elsewhere: false,
            link: None,
            mtu: 0,
            ethernet: matches!(
                message.header.link_layer_type,
                LinkLayerType::Ether | LinkLayerType::Loopback
            ),
            since: 0,
        };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name = Arc::from(name.as_str()),
                LinkAttribute::Address(mac) => {
                    interface.mac = mac.as_slice().try_into().unwrap_or_default();
                }
                LinkAttribute::Controller(master) if *master != 0 => {
                    interface.master = Some(*master);
                }
                LinkAttribute::Link(link) if *link != 0 => interface.link = Some(*link),
                // The number may be -1 (the namespace has no id yet): presence is what counts.
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            interface.kind = Kind::from(kind);
                        }
                    }
                }
                _ => {}
            }
        }
        interface.peer_elsewhere = elsewhere && interface.kind.is_pair();
        if elsewhere && !interface.peer_elsewhere {
            // An index of that namespace means another device in this one.
            interface.link = None;
        }
        (!interface.name.is_empty()).then_some(interface)
    }
}

impl Kind {
    /// Whether it is one of two ends.
    pub fn is_pair(self) -> bool {
        matches!(self, Self::Veth | Self::Netkit)
    }

    /// Whether it makes one device of several, each of whose packets passes it too.
    pub fn is_aggregate(self) -> bool {
        matches!(self, Self::Bond | Self::Team)
    }

    /// Whether it sends packets in packets to other nodes.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Vxlan | Self::Geneve)
    }
}

impl From<&InfoKind> for Kind {
    fn from(kind: &InfoKind) -> Self {
        match kind {
            InfoKind::Veth => Self::Veth,
            InfoKind::Netkit => Self::Netkit,
            InfoKind::Bridge => Self::Bridge,
            InfoKind::Vlan => Self::Vlan,
            InfoKind::MacVlan | InfoKind::MacVtap => Self::Macvlan,
            InfoKind::IpVlan | InfoKind::IpVtap => Self::Ipvlan,
            InfoKind::Vxlan => Self::Vxlan,
            InfoKind::Geneve => Self::Geneve,
            InfoKind::Bond => Self::Bond,
            InfoKind::Team => Self::Team,
            _ => Self::Other,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Veth => "veth",
            Self::Netkit => "netkit",
            Self::Bridge => "bridge",
            Self::Vlan => "vlan",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Bond => "bond",
            Self::Team => "team",
            Self::Device => "device",
            Self::Other => "other",
        })
    }
}
