//! What should happen to the address of a pod that opens a connection, and what did.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::cluster::{Inventory, Local};
use crate::flow::{Direction, Expected, Flow, NatCause, NatKind, Role, Tcp};

use super::in_force::InForce;

/// IPv4 link-local (RFC 3927), the range of `MasqLinkLocal`.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);

/// The TCP flag that opens a connection (RFC 9293 section 3.1).
const SYN: u8 = 0x02;

/// Which rule decides about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// kube-proxy: a pod that is its own backend.
    Hairpin,
    /// kube-proxy: a service asked for by an address from outside, policy `Cluster`.
    External,
    /// The masquerade configuration, or that nothing decides.
    Masquerade,
}

/// What should happen to the initiator's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// It should be kept, translated, or nothing can be said.
    pub expected: Expected,
    /// What it rests on, or why nothing can be said, for people.
    pub because: String,
    rule: Rule,
}

/// What should happen to the address of the pod that opened this connection; `None` for what no
/// pod of this node opened. `flow` has its names already.
pub fn expect(
    flow: &Flow,
    inventory: &Inventory,
    local: &Local,
    in_force: &InForce,
) -> Option<Expectation> {
    if !is_from_pod_here(flow, local) {
        return None;
    }
    let to = flow.nat.translated.destination.ip();
    if let Some(why) = not_judged(flow) {
        return Some(Expectation {
            expected: Expected::Unknown,
            because: why.to_owned(),
            rule: Rule::Masquerade,
        });
    }
    if let Some(found) = service_rule(flow, inventory) {
        return Some(found);
    }
    let (expected, because) = if to.is_multicast() || to == IpAddr::V4(Ipv4Addr::BROADCAST) {
        (Expected::Unknown, "sent to a group of receivers".to_owned())
    } else if flow.nat.source.is_none() && inventory.is_service_ip(to) {
        (
            Expected::Unknown,
            "the backend of the service is not known".to_owned(),
        )
    } else if local.owns(to) {
        (
            Expected::Kept,
            format!("{to} is an address of this node, which no masquerade rule takes"),
        )
    } else {
        configured(to, in_force)
    };
    Some(Expectation {
        expected,
        because,
        rule: Rule::Masquerade,
    })
}

/// What says nothing about today's rules: conntrack keeps the translation that a connection began
/// with, and gives that of another connection to messages about it.
fn not_judged(flow: &Flow) -> Option<&'static str> {
    if flow.icmp_message.is_some() {
        return Some("an ICMP message about another connection");
    }
    let begun_unseen = |tcp: &Tcp| tcp.forward_flags & SYN == 0;
    flow.tcp
        .as_ref()
        .is_some_and(begun_unseen)
        .then_some("it was open before it was seen: what was configured then is not known")
}

/// What kube-proxy's own rules say, whatever the masquerade configuration.
fn service_rule(flow: &Flow, inventory: &Inventory) -> Option<Expectation> {
    let service = flow.destination_service.as_ref()?;
    let (from, to) = (flow.nat.original.source, flow.nat.translated.destination);
    let translated = |because, rule| {
        Some(Expectation {
            expected: Expected::Translated,
            because,
            rule,
        })
    };
    if from.ip() == to.ip() {
        return translated(
            format!("kube-proxy masquerades a pod that reaches itself through {service}"),
            Rule::Hairpin,
        );
    }
    let known = inventory.service_named(service)?;
    let asked = flow.nat.original.destination.ip();
    let external = !known.cluster_ips.contains(&asked);
    // A service address that was not translated was not served by kube-proxy's rules.
    if external && !known.local_policy && asked != to.ip() {
        return translated(
            format!(
                "kube-proxy masquerades what reaches {service} by {asked}: its \
                 externalTrafficPolicy is Cluster"
            ),
            Rule::External,
        );
    }
    None
}

fn configured(to: IpAddr, in_force: &InForce) -> (Expected, String) {
    let config = match &in_force.config {
        Ok(config) => config,
        Err(why) => return (Expected::Unknown, why.clone()),
    };
    let source = &config.source;
    if let Some(range) = config.non_masquerade.iter().find(|net| net.contains(&to)) {
        return (
            Expected::Kept,
            format!("{range} is not masqueraded ({source})"),
        );
    }
    let IpAddr::V4(ip) = to else {
        return (
            Expected::Unknown,
            format!("{source} says nothing about IPv6"),
        );
    };
    if LINK_LOCAL.contains(&ip) {
        return match config.masq_link_local {
            Some(true) => (
                Expected::Translated,
                format!("link-local is masqueraded ({source})"),
            ),
            Some(false) => (Expected::Kept, format!("MasqLinkLocal is false ({source})")),
            None => (
                Expected::Unknown,
                format!("{source} says nothing about link-local"),
            ),
        };
    }
    if !in_force.is_sure_about(to) {
        return (
            Expected::Unknown,
            format!("{to} may be of the cluster's pod range: give --pod-cidr"),
        );
    }
    (
        Expected::Translated,
        format!(
            "everything but {} is masqueraded ({source})",
            list(&config.non_masquerade)
        ),
    )
}

fn list(ranges: &[IpNet]) -> String {
    let names: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        names => names.join(", "),
    }
}

/// Whether the initiator is a pod on this node: only there its rules are passed.
fn is_from_pod_here(flow: &Flow, local: &Local) -> bool {
    if !flow.source.is_pod() {
        return false;
    }
    let by_hop = flow
        .hops
        .first()
        .is_some_and(|hop| hop.role == Role::Pod && hop.direction == Direction::Ingress);
    by_hop
        || flow
            .source
            .pod()
            .is_some_and(|pod| *pod.node == *local.name())
}

/// Why the address was translated, knowing which rule decides about it.
pub fn cause(flow: &Flow, expectation: &Expectation, local: &Local) -> NatCause {
    let nat = &flow.nat;
    if !nat.is_source_translated() {
        return nat.cause;
    }
    match expectation.rule {
        Rule::Hairpin => NatCause::Hairpin,
        Rule::External => NatCause::KubeProxyMasquerade,
        // Both masquerades give the node's own address.
        Rule::Masquerade if !local.owns(nat.translated.source.ip()) => NatCause::Unknown,
        Rule::Masquerade if nat.kind == NatKind::Snat => NatCause::Masquerade,
        Rule::Masquerade if expectation.expected == Expected::Translated => NatCause::Masquerade,
        Rule::Masquerade => nat.cause,
    }
}
