//! Netlink messages read as changes of the [`NodeView`](super::NodeView).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::interface::Interface;
use super::view::{FdbEntry, Neighbour, NeighbourState, Route};

/// One thing that became true or ceased to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An interface appeared or changed.
    Link(Interface),
    /// An interface went.
    LinkGone(u32),
    /// An address was added.
    Address(u32, IpNet),
    /// An address was removed.
    AddressGone(u32, IpNet),
    /// Routes (one a next hop) were added; with `replace`, instead of those to the same
    /// destination with the same metric.
    Routes {
        /// One a next hop.
        routes: Vec<Route>,
        /// `NLM_F_REPLACE`.
        replace: bool,
    },
    /// Routes were removed.
    RoutesGone(Vec<Route>),
    /// A neighbour entry was made or changed.
    Neighbour(Neighbour),
    /// A neighbour entry went.
    NeighbourGone(IpAddr, u32),
    /// A bridge learned where an address is.
    Fdb(FdbEntry),
    /// A bridge forgot it.
    FdbGone(FdbEntry),
    /// The kernel dropped events: all is to be read anew.
    Overrun,
}

impl Event {
    /// Reads a multicast message; `None` for what the view does not hold.
    pub(super) fn from_message(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Self> {
        let inner = match &message.payload {
            NetlinkPayload::InnerMessage(inner) => inner,
            NetlinkPayload::Overrun(_) => return Some(Self::Overrun),
            _ => return None,
        };
        match inner {
            // A port that leaves a bridge is told as RTM_DELLINK with family AF_BRIDGE
            // (net/bridge/br_netlink.c); the interface itself stays.
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family != AddressFamily::Unspec =>
            {
                None
            }
            RouteNetlinkMessage::NewLink(link) => Interface::from_message(link).map(Self::Link),
            RouteNetlinkMessage::DelLink(link) => Some(Self::LinkGone(link.header.index)),
            RouteNetlinkMessage::NewAddress(address) => {
                address_of(address).map(|(index, net)| Self::Address(index, net))
            }
            RouteNetlinkMessage::DelAddress(address) => {
                address_of(address).map(|(index, net)| Self::AddressGone(index, net))
            }
            RouteNetlinkMessage::NewRoute(route) => {
                let routes = routes_of(route);
                let replace = message.header.flags & NLM_F_REPLACE != 0;
                (!routes.is_empty()).then_some(Self::Routes { routes, replace })
            }
            RouteNetlinkMessage::DelRoute(route) => {
                let routes = routes_of(route);
                (!routes.is_empty()).then_some(Self::RoutesGone(routes))
            }
            RouteNetlinkMessage::NewNeighbour(entry) => fdb_of(entry)
                .map(Self::Fdb)
                .or_else(|| neighbour_of(entry).map(Self::Neighbour)),
            RouteNetlinkMessage::DelNeighbour(entry) => {
                fdb_of(entry).map(Self::FdbGone).or_else(|| {
                    neighbour_of(entry).map(|gone| Self::NeighbourGone(gone.ip, gone.ifindex))
                })
            }
            _ => None,
        }
    }
}

/// The address of an `RTM_NEWADDR`. `IFA_LOCAL` is the interface's own address, `IFA_ADDRESS`
/// the peer's where both are given (linux/if_addr.h).
pub(super) fn address_of(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

/// The unicast routes of the main table in an `RTM_NEWROUTE`, one a next hop.
pub(super) fn routes_of(message: &RouteMessage) -> Vec<Route> {
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return Vec::new(),
    };
    let mut table = u32::from(message.header.table);
    let mut destination = unspecified;
    let mut metric = 0;
    let mut hops: Vec<(Option<IpAddr>, u32)> = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(ip) => destination = ip_of(ip).unwrap_or(unspecified),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => hops.push((gateway_of(&message.attributes), *index)),
            RouteAttribute::MultiPath(paths) => {
                hops.extend(
                    paths
                        .iter()
                        .map(|p| (gateway_of(&p.attributes), p.interface_index)),
                );
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let Ok(destination) = IpNet::new(destination, message.header.destination_prefix_length) else {
        return Vec::new();
    };
    hops.into_iter()
        .map(|(gateway, ifindex)| Route {
            destination,
            gateway,
            ifindex,
            metric,
        })
        .collect()
}

fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(ip) => ip_of(ip),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// An ARP or NDISC entry; multicast and broadcast mappings (NOARP) are left out.
pub(super) fn neighbour_of(message: &NeighbourMessage) -> Option<Neighbour> {
    let state = NeighbourState::from_kernel(message.header.state)?;
    let ip = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        })?;
    Some(Neighbour {
        ip,
        ifindex: message.header.ifindex,
        mac: mac_of(message),
        state,
    })
}

/// A forwarding entry of a bridge, `None` unless the family is AF_BRIDGE and it names a port
/// that is not the bridge itself.
pub(super) fn fdb_of(message: &NeighbourMessage) -> Option<FdbEntry> {
    if message.header.family != AddressFamily::Bridge {
        return None;
    }
    let port = message.header.ifindex;
    let own = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, NeighbourAttribute::Controller(i) if *i == port));
    mac_of(message)
        .filter(|_| !own)
        .map(|mac| FdbEntry { mac, port })
}

fn mac_of(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
            _ => None,
        })
}
