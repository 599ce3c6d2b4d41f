//! Whose the addresses are, how many pods still fit, and what is masqueraded.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::cluster::{Inventory, PLATFORM};
use crate::insight::nat::InForce;
use crate::node::{self, NodeView};
use crate::sink::proto::node::{AddressClass, Masquerade, PodAddresses};

/// IPv4 link-local (RFC 3927).
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

/// The classes in the order in which an address is looked for; one that is in none is `external`.
pub(super) fn classes(
    view: &NodeView,
    inventory: &Inventory,
    pod_cidrs: &[IpNet],
    node_cidrs: &[IpNet],
    service_cidrs: &[IpNet],
) -> Vec<AddressClass> {
    let single = |ip: IpAddr| IpNet::from(ip);
    let uplinks = || view.uplinks().flat_map(|index| view.addresses_of(index));
    let mut nodes: BTreeSet<IpNet> = inventory.node_addresses().map(single).collect();
    let own = view.addresses.iter().map(|(_, net)| net.addr());
    nodes.extend(own.filter(|ip| !ip.is_loopback()).map(single));
    let services = inventory.services().iter();
    let (mut cluster_ips, mut balancers) = (BTreeSet::new(), BTreeSet::new());
    for service in services {
        cluster_ips.extend(service.cluster_ips.iter().copied().map(single));
        balancers.extend(service.external_ips.iter().copied().map(single));
    }
    cluster_ips.retain(|ip| !service_cidrs.iter().any(|range| range.contains(ip)));
    cluster_ips.extend(service_cidrs);
    let mut pods: BTreeSet<IpNet> = inventory.pod_ranges().into_iter().collect();
    pods.extend(pod_cidrs);
    let ranges: Vec<IpNet> = pods.iter().copied().collect();
    let outside = inventory
        .pod_addresses()
        .filter(|ip| !ranges.iter().any(|range| range.contains(ip)));
    pods.extend(outside.map(single));
    let mut vnet: BTreeSet<IpNet> = uplinks().map(|net| net.trunc()).collect();
    vnet.extend(node_cidrs);
    let class = |name: &str, nets: BTreeSet<IpNet>| AddressClass {
        class: name.to_owned(),
        ranges: nets.iter().map(ToString::to_string).collect(),
    };
    vec![
        class("platform", PLATFORM.into_iter().map(single).collect()),
        class("node", nodes),
        class("load-balancer", balancers),
        class("service", cluster_ips),
        class("pod", pods),
        class("link-local", [IpNet::V4(LINK_LOCAL)].into()),
        class("vnet", vnet),
    ]
}

/// Addresses and places for pods, used and free.
pub(super) fn pod_addresses(
    view: &NodeView,
    inventory: &Inventory,
    node: &str,
    own_range: Option<IpNet>,
) -> PodAddresses {
    let mut used: BTreeSet<IpAddr> = inventory
        .pods_on(node)
        .flat_map(|pod| pod.ips.iter().copied())
        .collect();
    used.extend(node::pods_by_interface(view).into_values().flatten());
    let in_range = |range: &IpNet| used.iter().filter(|ip| range.contains(*ip)).count() as u64;
    let usable = own_range.and_then(|range| usable(view, &range));
    let (in_use, free) = match (own_range, usable) {
        (Some(range), Some(usable)) => {
            let in_use = in_range(&range);
            (in_use, Some(usable.saturating_sub(in_use)))
        }
        _ => (used.len() as u64, None),
    };
    let host_network = inventory.host_network_pods(node);
    let pods: BTreeSet<_> = inventory.pods_on(node).map(|pod| &pod.uid).collect();
    let pods = pods.len() as u64 + u64::from(host_network);
    let max_pods = inventory.node(node).and_then(|node| node.max_pods);
    PodAddresses {
        range: own_range.map_or_else(String::new, |range| range.to_string()),
        usable,
        in_use,
        free,
        pods,
        host_network_pods: u64::from(host_network),
        max_pods: max_pods.map(u64::from),
        free_pods: max_pods.map(|max| u64::from(max).saturating_sub(pods)),
    }
}

/// Addresses of a range that pods can get: not the network's own, the broadcast, and those that
/// the node itself has in it (the bridge's). Only IPv4 ranges ever run short.
fn usable(view: &NodeView, range: &IpNet) -> Option<u64> {
    let IpNet::V4(net) = range else { return None };
    let all = 1_u64 << (32 - net.prefix_len());
    let own: BTreeSet<IpAddr> = view
        .addresses
        .iter()
        .map(|(_, own)| own.addr())
        .filter(|ip| range.contains(ip))
        .collect();
    Some(all.saturating_sub(2 + own.len() as u64))
}

/// The masquerade configuration in force.
pub(super) fn masquerade(in_force: &InForce) -> Masquerade {
    match &in_force.config {
        Err(why) => Masquerade {
            unknown: why.clone(),
            ..Masquerade::default()
        },
        Ok(config) => Masquerade {
            source: config.source.clone(),
            non_masquerade_cidrs: config
                .non_masquerade
                .iter()
                .map(ToString::to_string)
                .collect(),
            link_local_masqueraded: config.masq_link_local,
            unknown: String::new(),
        },
    }
}
