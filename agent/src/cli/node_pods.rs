//! The part of `nodescope node` about pods and addresses.

use std::net::IpAddr;

use anyhow::Context as _;
use ipnet::IpNet;

use super::fit::Column;
use super::page::{Entry, Page, or_none};
use crate::sink::proto::node::{DescribeResponse, Masquerade, PodAddresses, PodPath};

/// One line a pod: interface, bridge, neighbour and route.
pub fn table(page: &mut Page, pods: &[PodPath]) {
    const COLUMNS: [Column; 8] = [
        Column::new("POD").cut(20),
        Column::new("IP"),
        Column::new("INTERFACE"),
        Column::new("IN-POD").leave(2),
        Column::new("BRIDGE").leave(3),
        Column::new("MAC").leave(1),
        Column::new("NEIGHBOUR").leave(5),
        Column::new("ROUTE").cut(20).leave(4),
    ];
    let rows = pods.iter().map(|pod| Entry::new(row(pod)));
    page.table(&COLUMNS, &rows.collect::<Vec<_>>());
}

fn row(pod: &PodPath) -> Vec<String> {
    let name = match pod.name.as_str() {
        "" => "-".to_owned(),
        name => format!("{}/{name}", pod.namespace),
    };
    let in_pod = match pod.peer_index {
        0 => "-".to_owned(),
        // Numbers as `ip addr` prints them: in the pod eth0 is <peer>: eth0@if<index>.
        peer => format!("{peer}: eth0@if{}", pod.index),
    };
    let neighbour = match (pod.neighbour.as_str(), pod.neighbour_interface.as_str()) {
        ("", _) => "-".to_owned(),
        (state, interface) => format!("{state} ({interface})"),
    };
    vec![
        name,
        pod.ip.clone(),
        or_none(&pod.interface),
        in_pod,
        or_none(&pod.bridge),
        or_none(&pod.mac),
        neighbour,
        or_none(&pod.route),
    ]
}

/// `3 of 253 in use (10.244.0.0/24), 250 free`.
pub fn addresses(use_: &PodAddresses) -> String {
    match (use_.usable, use_.free) {
        (Some(usable), Some(free)) => format!(
            "{} of {usable} in use ({}), {free} free",
            use_.in_use, use_.range
        ),
        _ => format!("{} in use, no pod CIDR of the node's own", use_.in_use),
    }
}

/// `5 of 110 pods, 2 of them on the host network, 105 places free`.
pub fn places(use_: &PodAddresses) -> String {
    let host = match use_.host_network_pods {
        0 => String::new(),
        host => format!(", {host} of them on the host network"),
    };
    match (use_.max_pods, use_.free_pods) {
        (Some(max), Some(free)) => format!("{} of {max}{host}, {free} places free", use_.pods),
        _ => format!("{}{host}; the API does not say how many fit", use_.pods),
    }
}

/// What is kept, what becomes of link-local, and who says so.
pub fn masquerade(config: &Masquerade) -> String {
    if !config.unknown.is_empty() {
        return format!("unknown: {}", config.unknown);
    }
    let kept = match config.non_masquerade_cidrs.as_slice() {
        [] => "everything is translated".to_owned(),
        ranges => format!("all but {} is translated", ranges.join(", ")),
    };
    let link_local = match config.link_local_masqueraded {
        Some(true) => "; link-local is translated",
        Some(false) => "; link-local is kept",
        None => "",
    };
    format!("{kept}{link_local} ({})", config.source)
}

/// The class of an address on a node: the first whose ranges hold it, else `external`.
///
/// # Errors
/// When the agent sent a range that is none.
pub fn class_of(node: &DescribeResponse, ip: IpAddr) -> anyhow::Result<(String, String)> {
    for class in &node.address_classes {
        for range in &class.ranges {
            let net: IpNet = range
                .parse()
                .with_context(|| format!("{}: `{range}` is no range", node.name))?;
            if net.contains(&ip) {
                return Ok((class.class.clone(), range.clone()));
            }
        }
    }
    Ok(("external".to_owned(), String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::proto::node::AddressClass;

    #[test]
    fn the_first_class_that_holds_an_address() -> anyhow::Result<()> {
        let class = |name: &str, ranges: &[&str]| AddressClass {
            class: name.to_owned(),
            ranges: ranges.iter().map(|range| (*range).to_owned()).collect(),
        };
        let node = DescribeResponse {
            address_classes: vec![
                class("platform", &["168.63.129.16/32"]),
                class("node", &["10.224.0.4/32"]),
                class("vnet", &["10.224.0.0/16"]),
            ],
            ..DescribeResponse::default()
        };
        for (ip, wanted) in [
            ("10.224.0.4", "node"),
            ("10.224.0.5", "vnet"),
            ("168.63.129.16", "platform"),
            ("1.1.1.1", "external"),
            ("2001:db8::1", "external"),
        ] {
            assert_eq!(class_of(&node, ip.parse()?)?.0, wanted, "{ip}");
        }
        Ok(())
    }

    #[test]
    fn sentences_about_room_and_masquerade() {
        let room = PodAddresses {
            range: "10.244.0.0/24".to_owned(),
            usable: Some(253),
            in_use: 3,
            free: Some(250),
            pods: 5,
            host_network_pods: 2,
            max_pods: Some(110),
            free_pods: Some(105),
        };
        assert_eq!(
            addresses(&room),
            "3 of 253 in use (10.244.0.0/24), 250 free"
        );
        assert_eq!(
            places(&room),
            "5 of 110, 2 of them on the host network, 105 places free"
        );
        let config = Masquerade {
            source: "ConfigMap x".to_owned(),
            non_masquerade_cidrs: vec!["10.0.0.0/8".to_owned()],
            link_local_masqueraded: Some(false),
            unknown: String::new(),
        };
        assert_eq!(
            masquerade(&config),
            "all but 10.0.0.0/8 is translated; link-local is kept (ConfigMap x)"
        );
    }
}
