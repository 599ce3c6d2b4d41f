//! The immutable picture of the node, and how one event changes it into the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_route::neighbour::NeighbourState as KernelState;

use super::event::Event;
use super::interface::{Interface, Kind};

/// A unicast route of the main table; a multipath route is one a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to; `0.0.0.0/0` or `::/0` is a default route.
    pub destination: IpNet,
    /// Next hop; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Interface that the packets leave by.
    pub ifindex: u32,
    /// `RTA_PRIORITY`; the lowest wins.
    pub metric: u32,
}

/// How sure the kernel is of a neighbour (the NUD states of linux/neighbour.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Asked, no answer yet.
    Incomplete,
    /// Confirmed.
    Reachable,
    /// Not confirmed of late.
    Stale,
    /// Being confirmed (DELAY or PROBE).
    Probing,
    /// No answer.
    Failed,
    /// Set by hand.
    Permanent,
}

impl NeighbourState {
    /// `None` for states that name no neighbour (NOARP, NONE).
    pub(super) fn from_kernel(state: KernelState) -> Option<Self> {
        match state {
            KernelState::Incomplete => Some(Self::Incomplete),
            KernelState::Reachable => Some(Self::Reachable),
            KernelState::Stale => Some(Self::Stale),
            KernelState::Delay | KernelState::Probe => Some(Self::Probing),
            KernelState::Failed => Some(Self::Failed),
            KernelState::Permanent => Some(Self::Permanent),
            _ => None,
        }
    }
}

/// An ARP (IPv4) or NDISC (IPv6) entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub ip: IpAddr,
    /// The interface that it is reached by.
    pub ifindex: u32,
    /// Its hardware address, once known.
    pub mac: Option<[u8; 6]>,
    /// How sure the kernel is.
    pub state: NeighbourState,
}

/// Where a bridge has learned (or was told) that a hardware address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbEntry {
    /// The hardware address.
    pub mac: [u8; 6],
    /// The bridge port.
    pub port: u32,
}

/// The node at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Own addresses with the prefix as configured (host bits kept), and their interface; sorted.
    pub addresses: Vec<(u32, IpNet)>,
    /// Interfaces of the default routes, best metric first, each once.
    pub default_routes: Vec<u32>,
    /// Unicast routes of the main table, sorted.
    pub routes: Vec<Route>,
    /// Neighbour entries, sorted by address and interface.
    pub neighbours: Vec<Neighbour>,
    /// Bridge forwarding entries, sorted.
    pub fdb: Vec<FdbEntry>,
    /// Interfaces that have had a default route, for as long as they are there.
    outward: BTreeSet<u32>,
    /// Interfaces that came so far: the number of the newest.
    births: u64,
}

impl NodeView {
    /// The interface of this name.
    pub fn by_name(&self, name: &str) -> Option<&Interface> {
        self.interfaces
            .values()
            .find(|interface| &*interface.name == name)
    }

    /// The name of an interface; `?` when it went meanwhile.
    pub fn name_of(&self, ifindex: u32) -> Arc<str> {
        self.interfaces
            .get(&ifindex)
            .map_or_else(|| Arc::from("?"), |found| found.name.clone())
    }

    /// Addresses of one interface.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = IpNet> + '_ {
        self.addresses
            .iter()
            .filter(move |(index, _)| *index == ifindex)
            .map(|(_, net)| *net)
    }

    /// The bridge that an interface is a port of.
    pub fn bridge_of(&self, interface: &Interface) -> Option<u32> {
        let master = self.interfaces.get(&interface.master?)?;
        (master.kind == Kind::Bridge).then_some(master.index)
    }

    /// Ports of a bridge, or parts of another device.
    pub fn ports_of(&self, master: u32) -> impl Iterator<Item = &Interface> {
        self.interfaces
            .values()
            .filter(move |interface| interface.master == Some(master))
    }

    /// The interfaces by which the node reaches the world, or did: those of the default routes,
    /// best metric first, then those that have lost theirs. One goes with its link or its lease,
    /// for a moment mostly, and packets leave by the interface before it is back.
    pub fn uplinks(&self) -> impl Iterator<Item = u32> + '_ {
        let free = |index: &u32| {
            let found = self.interfaces.get(index);
            // A part of another device is what that one is made of.
            found.is_some_and(|found| found.master.is_none())
        };
        let former = self.outward.iter().copied();
        let former = former.filter(|index| !self.default_routes.contains(index));
        let now = self.default_routes.iter().copied();
        now.chain(former.filter(free))
    }

    /// Whether the node itself answers at this address.
    pub fn is_own_address(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|(_, net)| net.addr() == ip)
    }

    /// Applies one event; whether anything that the view holds changed.
    pub(super) fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Link(mut interface) => {
                let before = self.interfaces.get(&interface.index);
                interface.since = match before {
                    Some(before) => before.since,
                    None => {
                        self.births += 1;
                        self.births
                    }
                };
                let changed = before != Some(&interface);
                self.interfaces.insert(interface.index, interface);
                changed
            }
            Event::LinkGone(index) => self.forget(index),
            Event::Address(index, net) => insert(&mut self.addresses, (index, net)),
            Event::AddressGone(index, net) => remove(&mut self.addresses, &(index, net)),
            Event::Routes { routes, replace } => self.add_routes(routes, replace),
            Event::RoutesGone(gone) => {
                let before = self.routes.len();
                self.routes.retain(|route| !gone.contains(route));
                self.find_default_routes();
                self.routes.len() != before
            }
            Event::Neighbour(entry) => {
                match self
                    .neighbours
                    .binary_search_by_key(&(entry.ip, entry.ifindex), key)
                {
                    Ok(at) if self.neighbours[at] == entry => false,
                    Ok(at) => {
                        self.neighbours[at] = entry;
                        true
                    }
                    Err(at) => {
                        self.neighbours.insert(at, entry);
                        true
                    }
                }
            }
            Event::NeighbourGone(ip, ifindex) => {
                let found = self.neighbours.binary_search_by_key(&(ip, ifindex), key);
                found.map(|at| self.neighbours.remove(at)).is_ok()
            }
            Event::Fdb(entry) => insert(&mut self.fdb, entry),
            Event::FdbGone(entry) => remove(&mut self.fdb, &entry),
            Event::Overrun => false,
        }
    }

    /// Takes over from the view that this reading takes the place of which interfaces are the same
    /// as before. `known` has been told all that this one has.
    pub(super) fn succeed(&mut self, known: &Self) {
        self.births = known.births;
        let outward = known.outward.iter();
        self.outward
            .extend(outward.filter(|index| self.interfaces.contains_key(index)));
        for interface in self.interfaces.values_mut() {
            interface.since = match known.interfaces.get(&interface.index) {
                Some(same) => same.since,
                None => {
                    self.births += 1;
                    self.births
                }
            };
        }
    }

    /// An interface that goes takes all along that hangs on it: the kernel does not tell of
    /// IPv4 routes that it flushes for that reason (net/ipv4/fib_frontend.c).
    fn forget(&mut self, index: u32) -> bool {
        let known = self.interfaces.remove(&index).is_some();
        self.outward.remove(&index);
        self.addresses.retain(|(owner, _)| *owner != index);
        self.routes.retain(|route| route.ifindex != index);
        self.neighbours.retain(|entry| entry.ifindex != index);
        self.fdb.retain(|entry| entry.port != index);
        self.find_default_routes();
        known
    }

    fn add_routes(&mut self, routes: Vec<Route>, replace: bool) -> bool {
        let before = self.routes.len();
        let mut changed = false;
        if replace && let Some(first) = routes.first() {
            let same = |r: &Route| r.destination == first.destination && r.metric == first.metric;
            self.routes
                .retain(|route| !same(route) || routes.contains(route));
            changed = self.routes.len() != before;
        }
        for route in routes {
            changed |= insert(&mut self.routes, route);
        }
        self.find_default_routes();
        changed
    }

    fn find_default_routes(&mut self) {
        let mut defaults: Vec<&Route> = self
            .routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0)
            .collect();
        defaults.sort_by_key(|route| route.metric);
        let mut found: Vec<u32> = Vec::new();
        for route in defaults {
            if !found.contains(&route.ifindex) {
                found.push(route.ifindex);
            }
        }
        self.outward.extend(&found);
        self.default_routes = found;
    }
}

fn key(entry: &Neighbour) -> (IpAddr, u32) {
    (entry.ip, entry.ifindex)
}

/// Keeps `list` sorted and free of duplicates; whether `item` is new.
fn insert<T: Ord>(list: &mut Vec<T>, item: T) -> bool {
    match list.binary_search(&item) {
        Ok(_) => false,
        Err(at) => {
            list.insert(at, item);
            true
        }
    }
}

/// Takes `item` out of a sorted list; whether it was there.
fn remove<T: Ord>(list: &mut Vec<T>, item: &T) -> bool {
    list.binary_search(item).map(|at| list.remove(at)).is_ok()
}
