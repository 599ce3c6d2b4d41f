//! Whose payload the kernel side is asked for: what answers health checks, and nothing else.

use std::net::IpAddr;

use nodescope_ebpf::ProbeEnd;

use super::recognise::KUBE_PROXY;
use crate::cluster::{Inventory, Local};
use crate::datapath::ProbeEnds;

/// The ends for the kernel's map.
pub fn ends(inventory: &Inventory, local: &Local, sources: &[IpAddr]) -> ProbeEnds {
    let mut ends = ProbeEnds::new();
    for ip in local.addresses() {
        ends.insert((ip, 0), ProbeEnd::Node);
        ends.insert((ip, KUBE_PROXY), ProbeEnd::Port);
        for service in inventory.exposed_services() {
            if let Some(port) = service.health_check_node_port {
                ends.insert((ip, port), ProbeEnd::Port);
            }
        }
    }
    for pod in inventory.pods_on(local.name()) {
        for ip in &pod.ips {
            for probe in &pod.probes {
                ends.insert((*ip, probe.port), ProbeEnd::PodPort);
            }
        }
    }
    // Last: an address that is both is a source first.
    for ip in sources {
        ends.insert((*ip, 0), ProbeEnd::Source);
    }
    ends
}
