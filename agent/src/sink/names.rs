//! The words that records, metrics and filters use for what a flow says.

use crate::flow::{
    Class, Direction, End, Event, Expected, NatCause, NatKind, NatSource, Role, Scope, TcpState,
};

/// Every class with its word, in the order of [`Class`].
pub const CLASSES: [(Class, &str); 12] = [
    (Class::PodToPod, "pod-to-pod"),
    (Class::PodToNode, "pod-to-node"),
    (Class::NodeToPod, "node-to-pod"),
    (Class::PodToWorld, "pod-to-world"),
    (Class::WorldToPod, "world-to-pod"),
    (Class::NodeToWorld, "node-to-world"),
    (Class::WorldToNode, "world-to-node"),
    (Class::NodeToNode, "node-to-node"),
    (Class::LbProbe, "lb-probe"),
    (Class::KubeletProbe, "kubelet-probe"),
    (Class::Platform, "platform"),
    (Class::Other, "other"),
];

/// TCP flags by bit, lowest first (RFC 9293 section 3.1).
pub const TCP_FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

/// Word of a class.
pub fn class(class: Class) -> &'static str {
    match class {
        Class::PodToPod => "pod-to-pod",
        Class::PodToNode => "pod-to-node",
        Class::NodeToPod => "node-to-pod",
        Class::PodToWorld => "pod-to-world",
        Class::WorldToPod => "world-to-pod",
        Class::NodeToWorld => "node-to-world",
        Class::WorldToNode => "world-to-node",
        Class::NodeToNode => "node-to-node",
        Class::LbProbe => "lb-probe",
        Class::KubeletProbe => "kubelet-probe",
        Class::Platform => "platform",
        Class::Other => "other",
    }
}

/// Word of an event.
pub fn event(event: Event) -> &'static str {
    match event {
        Event::Open => "open",
        Event::Update => "update",
        Event::Close => "close",
        Event::Drop => "drop",
    }
}

/// Word of a scope.
pub fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::SameNode => "same-node",
        Scope::CrossNode => "cross-node",
    }
}

/// Word of an interface's role.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Pod => "pod",
        Role::Bridge => "bridge",
        Role::Uplink => "uplink",
        Role::Tunnel => "tunnel",
        Role::Other => "other",
    }
}

/// Word of a direction.
pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// Word of a kind of translation.
pub fn nat_kind(kind: NatKind) -> &'static str {
    match kind {
        NatKind::None => "none",
        NatKind::Snat => "snat",
        NatKind::Dnat => "dnat",
        NatKind::Both => "both",
    }
}

/// Word of the cause of a translation.
pub fn nat_cause(cause: NatCause) -> &'static str {
    match cause {
        NatCause::None => "none",
        NatCause::Masquerade => "masquerade",
        NatCause::KubeProxyMasquerade => "kube-proxy-masquerade",
        NatCause::Service => "service",
        NatCause::Hairpin => "hairpin",
        NatCause::Unknown => "unknown",
    }
}

/// Word of what the masquerade configuration says.
pub fn expected(expected: Expected) -> &'static str {
    match expected {
        Expected::Kept => "kept",
        Expected::Translated => "translated",
        Expected::Unknown => "unknown",
    }
}

/// Word of where a translation is known from.
pub fn nat_source(source: NatSource) -> &'static str {
    match source {
        NatSource::Skb => "skb",
        NatSource::Netlink => "netlink",
    }
}

/// Word of a TCP state.
pub fn tcp_state(state: TcpState) -> &'static str {
    match state {
        TcpState::SynSent => "syn-sent",
        TcpState::SynReceived => "syn-received",
        TcpState::Established => "established",
        TcpState::HalfClosed => "half-closed",
        TcpState::Closed => "closed",
        TcpState::Reset => "reset",
        TcpState::Refused => "refused",
    }
}

/// Name of an end of a connection.
pub fn end(end: End) -> &'static str {
    match end {
        End::Initiator => "initiator",
        End::Responder => "responder",
    }
}

/// Names of the flags set in `flags`, lowest bit first.
pub fn tcp_flags(flags: u8) -> impl Iterator<Item = &'static str> {
    TCP_FLAGS
        .into_iter()
        .enumerate()
        .filter_map(move |(bit, name)| (flags & (1 << bit) != 0).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_list_and_words_agree() {
        for (value, word) in CLASSES {
            assert_eq!(class(value), word);
        }
    }

    #[test]
    fn flags_are_named_lowest_bit_first() {
        assert_eq!(tcp_flags(0x12).collect::<Vec<_>>(), ["SYN", "ACK"]);
    }
}
