//! One line about a flow, which stock clients print as it is.

use std::fmt::Write as _;

use crate::flow::{Flow, NatKind, Protocol};
use crate::sink::names;

/// For example `TCP established 5/4 packets snat 10.224.0.4:60996 (masquerade)`.
pub fn of(flow: &Flow) -> String {
    let mut line = flow.tuple.protocol.to_string();
    if let Some(drop) = &flow.drop {
        let packets = flow.forward.delta.packets;
        let drop = format!(
            "dropped {} at {}, {packets} packets",
            drop.reason,
            drop.hook()
        );
        add(&mut line, &drop);
        return line;
    }
    if let Some(tcp) = flow.tcp {
        add(&mut line, names::tcp_state(tcp.state));
    } else if flow.tuple.protocol.is_icmp() && flow.echo_rtt.is_some() {
        add(&mut line, "echo");
    }
    let (forward, reply) = (flow.forward.total.packets, flow.reply.total.packets);
    add(&mut line, &format!("{forward}/{reply} packets"));
    if reply == 0 && matches!(flow.tuple.protocol, Protocol::TCP) {
        add(&mut line, "unanswered");
    }
    let nat = &flow.nat;
    let cause = names::nat_cause(nat.cause);
    let kind = names::nat_kind(nat.kind);
    // Writing to a String cannot fail.
    let _ = match nat.kind {
        NatKind::None => Ok(()),
        NatKind::Snat => write!(line, " {kind} {} ({cause})", nat.translated.source),
        NatKind::Dnat => write!(line, " {kind} from {} ({cause})", nat.original.destination),
        NatKind::Both => write!(
            line,
            " snat {} dnat from {} ({cause})",
            nat.translated.source, nat.original.destination
        ),
    };
    line
}

fn add(line: &mut String, word: &str) {
    line.push(' ');
    line.push_str(word);
}
