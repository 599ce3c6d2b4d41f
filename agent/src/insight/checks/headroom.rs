//! Checks of what can run out: addresses, ports, connection tracking.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Facts, Finding, count};
use crate::node;

/// Ports that a masqueraded connection can get: 1024 to 65535, for each destination
/// (net/netfilter/nf_nat_core.c, `nf_nat_l4proto_unique_tuple`).
pub const PORTS: u64 = 64_512;

fn is_full(used: u64, limit: u64, facts: &Facts<'_>) -> bool {
    used.saturating_mul(100) >= limit.saturating_mul(facts.full_percent)
}

/// A verdict by how much of a limit is used.
fn judge(facts: &Facts<'_>, used: u64, limit: u64, evidence: String, mend: &str) -> Finding {
    if is_full(used, limit, facts) {
        Finding::fail(format!("{evidence}: {mend}"))
    } else {
        Finding::pass(evidence)
    }
}

/// Addresses of the node's pod range are left.
pub(super) fn pod_cidr(facts: &Facts<'_>) -> Finding {
    let Some(cidr) = facts.inventory.pod_cidr_of(facts.node) else {
        return Finding::unknown(
            "the node has no pod range of its own, or it is not known (see --pod-cidr)",
        );
    };
    let own: BTreeSet<IpAddr> = facts
        .view
        .addresses
        .iter()
        .map(|(_, net)| net.addr())
        .filter(|ip| cidr.contains(ip))
        .collect();
    // Pods that the API knows, and those that only the node has seen.
    let pods: BTreeSet<IpAddr> = facts
        .inventory
        .pods_on(facts.node)
        .flat_map(|pod| pod.ips.iter().copied())
        .chain(node::pods_by_interface(facts.view).into_values().flatten())
        .filter(|ip| cidr.contains(ip))
        .collect();
    let (used, limit) = (
        pods.len() as u64,
        hosts(cidr).saturating_sub(own.len() as u64),
    );
    let evidence = format!("{used} of {limit} addresses of {cidr} are in use by pods");
    judge(
        facts,
        used,
        limit,
        evidence,
        "pods that get no address stay in ContainerCreating; lower maxPods or add nodes",
    )
}

/// Addresses that hosts can have.
fn hosts(cidr: IpNet) -> u64 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    let all = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
    match cidr {
        // Without network and broadcast address.
        IpNet::V4(_) if bits > 1 => all - 2,
        _ => all,
    }
}

/// Source ports towards each destination are left.
pub(super) fn snat_ports(facts: &Facts<'_>) -> Finding {
    let Some(busiest) = &facts.snat_ports else {
        return Finding::unknown("no translated connection is open");
    };
    let mut evidence = format!(
        "{} of {PORTS} in use towards {}, the busiest destination",
        count(busiest.ports, "port"),
        busiest.destination
    );
    if let Some((pod, connections)) = busiest.pods.first() {
        evidence.push_str(&format!(
            ", most by {pod} ({})",
            count(
                usize::try_from(*connections).unwrap_or(usize::MAX),
                "connection"
            )
        ));
    }
    if facts.more_ports && !is_full(busiest.ports as u64, PORTS, facts) {
        return Finding::unknown(format!(
            "at least {evidence}; more connections are open than the agent keeps: raise its \
             --max-connections"
        ));
    }
    judge(
        facts,
        busiest.ports as u64,
        PORTS,
        evidence,
        "new connections there fail when none is left; reuse connections, or spread them",
    )
}

/// Connection tracking has room.
pub(super) fn conntrack(facts: &Facts<'_>) -> Finding {
    match &facts.conntrack {
        Err(why) => Finding::unknown(why.as_str()),
        Ok(table) if table.limit == 0 => Finding::pass(format!(
            "{} entries in use, without a limit (nf_conntrack_max is 0)",
            table.entries
        )),
        Ok(table) => judge(
            facts,
            table.entries,
            table.limit,
            format!("{} of {} entries in use", table.entries, table.limit),
            "the kernel drops new connections when it is full; raise nf_conntrack_max",
        ),
    }
}
