//! One network interface, reduced to what hooks, roles and people need.

use std::sync::Arc;

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

/// What an interface is made of (`IFLA_INFO_KIND`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One end of a pair.
    Veth,
    /// A Linux bridge.
    Bridge,
    /// An 802.1Q sub-interface.
    Vlan,
    /// A VXLAN tunnel.
    Vxlan,
    /// Several devices as one.
    Bond,
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
    /// Index of the bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// A veth whose other end is in another network namespace (`IFLA_LINK_NETNSID` is present).
    pub peer_elsewhere: bool,
    /// `IFLA_LINK`: index of the other end of a veth (in *its* namespace, the number in
    /// `veth1@if15`), or of the device below a VLAN.
    pub link: Option<u32>,
    /// Largest packet in bytes, link-layer header not included.
    pub mtu: u32,
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
        interface.peer_elsewhere = elsewhere && interface.kind == Kind::Veth;
        (!interface.name.is_empty()).then_some(interface)
    }
}

impl From<&InfoKind> for Kind {
    fn from(kind: &InfoKind) -> Self {
        match kind {
            InfoKind::Veth => Self::Veth,
            InfoKind::Bridge => Self::Bridge,
            InfoKind::Vlan => Self::Vlan,
            InfoKind::Vxlan => Self::Vxlan,
            InfoKind::Bond => Self::Bond,
            _ => Self::Other,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Veth => "veth",
            Self::Bridge => "bridge",
            Self::Vlan => "vlan",
            Self::Vxlan => "vxlan",
            Self::Bond => "bond",
            Self::Device => "device",
            Self::Other => "other",
        })
    }
}
