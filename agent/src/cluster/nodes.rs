//! Nodes by name and address, and the ranges that their pods' addresses are from.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::flow::Node;

/// All nodes, indexed.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    by_name: HashMap<String, Arc<Node>>,
    by_ip: HashMap<IpAddr, Arc<Node>>,
    pod_ranges: Ranges,
}

impl Nodes {
    pub(super) fn build<'a>(nodes: impl Iterator<Item = &'a Arc<Node>>) -> Self {
        let mut index = Self::default();
        for node in nodes {
            index.by_name.insert(node.name.clone(), node.clone());
            for ip in &node.ips {
                index.by_ip.insert(*ip, node.clone());
            }
            for cidr in &node.pod_cidrs {
                index.pod_ranges.insert(*cidr, node.clone());
            }
        }
        index
    }

    pub(super) fn named(&self, name: &str) -> Option<&Arc<Node>> {
        self.by_name.get(name)
    }

    pub(super) fn at(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        self.by_ip.get(&ip)
    }

    /// Every node's addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.by_ip.keys().copied()
    }

    /// Every node's pod ranges.
    pub(super) fn pod_ranges(&self) -> Vec<IpNet> {
        self.pod_ranges.nodes.keys().copied().collect()
    }

    /// The node whose pod range holds the address.
    pub(super) fn of_pod_ip(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        self.pod_ranges.find(ip).map(|(_, node)| node)
    }

    /// The node whose pod bridge has this address: the first of its pod range, by the convention
    /// of kubenet and the `host-local` plugin, unless it belongs to a pod.
    pub(super) fn of_gateway(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        let (range, node) = self.pod_ranges.find(ip)?;
        let first = match range.network() {
            IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from(u32::from(network).wrapping_add(1))),
            IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network).wrapping_add(1))),
        };
        (ip == first && range.prefix_len() + 1 < range.max_prefix_len()).then_some(node)
    }
}

/// Ranges that do not overlap, found by one look-up for each prefix length in use.
#[derive(Clone, Debug, Default)]
struct Ranges {
    lengths: BTreeSet<u8>,
    nodes: HashMap<IpNet, Arc<Node>>,
}

impl Ranges {
    fn insert(&mut self, range: IpNet, node: Arc<Node>) {
        self.lengths.insert(range.prefix_len());
        self.nodes.insert(range.trunc(), node);
    }

    fn find(&self, ip: IpAddr) -> Option<(IpNet, &Arc<Node>)> {
        self.lengths.iter().rev().find_map(|length| {
            let range = IpNet::new(ip, *length).ok()?.trunc();
            self.nodes.get(&range).map(|node| (range, node))
        })
    }
}
