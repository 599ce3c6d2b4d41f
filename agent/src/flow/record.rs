//! From a connection to the record that is said about it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{Connection, HopState};
use super::identity::Identity;
use super::model::{
    Class, Counts, Direction, Event, Expected, Flow, Hop, Nat, NatCause, NatKind, Role, Traffic,
    Tuple,
};
use super::moment::Moment;
use super::tuple::Conversation;

/// What a record says of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Its name.
    pub name: Arc<str>,
    /// What it is for.
    pub role: Role,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
}

/// Interfaces by index; those that are gone stay until their connections are closed.
pub type Interfaces = HashMap<u32, InterfaceInfo>;

/// The record of a connection as it is now. Identities and class are the cluster room's to fill.
pub fn flow(
    connection: &Connection,
    event: Event,
    node: &Arc<str>,
    interfaces: &Interfaces,
    now: Moment,
) -> Flow {
    let ordered = path_order(connection, interfaces);
    let hops = hops(connection, &ordered, interfaces);
    let totals = hops
        .iter()
        .filter_map(|hop| Some((hop.forward?, hop.reply?)))
        .find(|(forward, reply)| forward.packets + reply.packets > 0)
        .unwrap_or_default();
    let far = connection.far();
    let mut tcp = connection.tcp();
    let rtt = ordered.iter().find_map(|hop| round_trip(hop));
    if let Some(tcp) = &mut tcp {
        tcp.handshake_rtt = rtt;
    }
    Flow {
        time: now.wall,
        started: now.wall_of(connection.first_ns),
        started_ns: connection.first_ns,
        event,
        connection: connection.id,
        node: Arc::clone(node),
        tuple: connection.tuple,
        class: Class::Other,
        scope: None,
        source: Identity::Unknown,
        destination: Identity::Unknown,
        destination_service: None,
        crossed_load_balancer: None,
        forward: traffic(totals.0, connection.reported.0),
        reply: traffic(totals.1, connection.reported.1),
        echo_rtt: rtt.filter(|_| tcp.is_none()),
        icmp_message: icmp_message(connection),
        tcp,
        nat: nat(connection, far),
        expectation: None,
        remote_sees: far.source,
        hops,
        probe: None,
        notes: connection.notes(),
        drop: None,
        mark: None,
    }
}

fn traffic(total: Counts, reported: Counts) -> Traffic {
    Traffic {
        delta: total - reported,
        total,
    }
}

fn round_trip(hop: &HopState) -> Option<Duration> {
    let record = &hop.record;
    (record.request_ns != 0 && record.answer_ns > record.request_ns)
        .then(|| Duration::from_nanos(record.answer_ns - record.request_ns))
}

/// Type and code, which the contract packs into the ports of a message that is no echo.
fn icmp_message(connection: &Connection) -> Option<(u8, u8)> {
    let hop = connection.hops.first()?;
    (hop.key.kind == nodescope_ebpf::Kind::IcmpMessage as u8).then(|| {
        let [kind, code] = hop.key.a_port.to_be_bytes();
        (kind, code)
    })
}

fn nat(connection: &Connection, far: Tuple) -> Nat {
    let own = connection.tuple;
    let source = own.source != far.source;
    let destination = own.destination != far.destination;
    Nat {
        kind: match (source, destination) {
            (false, false) => NatKind::None,
            (true, false) => NatKind::Snat,
            (false, true) => NatKind::Dnat,
            (true, true) => NatKind::Both,
        },
        original: own,
        translated: far,
        cause: NatCause::None,
        expected: Expected::Unknown,
        source: connection.translation.map(|translation| translation.source),
    }
}

/// Hops as the initiator's packets pass them: into the node, into and out of a bridge, out.
fn path_order<'a>(connection: &'a Connection, interfaces: &Interfaces) -> Vec<&'a HopState> {
    let mut ordered: Vec<_> = connection.hops.iter().collect();
    ordered.sort_by_key(|hop| {
        let bridge = interfaces
            .get(&hop.key.ifindex)
            .is_some_and(|info| info.role == Role::Bridge);
        let rank = match (connection.direction(hop), bridge) {
            (Direction::Ingress, false) => 0,
            (Direction::Ingress, true) => 1,
            (Direction::Egress, true) => 2,
            (Direction::Egress, false) => 3,
        };
        (rank, hop.record.first_ns)
    });
    ordered
}

fn hops(connection: &Connection, ordered: &[&HopState], interfaces: &Interfaces) -> Vec<Hop> {
    let mut hops: Vec<Hop> = Vec::with_capacity(ordered.len() + 1);
    for state in ordered {
        let direction = connection.direction(state);
        let (forward, reply) = connection.counts(state);
        let errors = connection.errors(state);
        let here = Conversation::of_key(&state.key).directed(connection.initiator_is_a(state));
        let tuple = (here != connection.tuple).then_some(here);
        // An interface may see one tuple on the way there and another on the way back: a bridge
        // whose frames br_netfilter translates before it takes them for itself.
        if let Some(hop) = hops
            .iter_mut()
            .find(|hop| hop.ifindex == state.key.ifindex && hop.direction == direction)
        {
            if forward.packets > 0 {
                hop.tuple = tuple;
            }
            add(&mut hop.forward, forward);
            add(&mut hop.reply, reply);
            hop.errors.0 += errors.0;
            hop.errors.1 += errors.1;
            continue;
        }
        let info = interfaces.get(&state.key.ifindex);
        hops.push(Hop {
            interface: info.map_or_else(
                || Arc::from(format!("if{}", state.key.ifindex)),
                |info| Arc::clone(&info.name),
            ),
            ifindex: state.key.ifindex,
            role: info.map_or(Role::Other, |info| info.role),
            pod: None,
            direction,
            vlans: state.vlans(),
            forward: Some(forward),
            reply: Some(reply),
            errors,
            tuple,
        });
    }
    insert_bridge(&mut hops, interfaces);
    // Many records are kept for a while.
    hops.shrink_to_fit();
    hops
}

fn add(counts: &mut Option<Counts>, more: Counts) {
    if let Some(counts) = counts {
        *counts += more;
    }
}

/// Frames that a bridge forwards between its own ports pass no hook of the bridge: it is named
/// from the ports' master, without counts.
fn insert_bridge(hops: &mut Vec<Hop>, interfaces: &Interfaces) {
    let master = |hop: &Hop| interfaces.get(&hop.ifindex).and_then(|info| info.master);
    let found = hops.windows(2).enumerate().find_map(|(at, pair)| {
        let shared = master(&pair[0]).filter(|bridge| master(&pair[1]) == Some(*bridge))?;
        (pair[0].direction == Direction::Ingress && pair[1].direction == Direction::Egress)
            .then_some((at + 1, shared))
    });
    if let Some((at, bridge)) = found
        && let Some(info) = interfaces.get(&bridge)
    {
        let hop = Hop {
            interface: Arc::clone(&info.name),
            ifindex: bridge,
            role: Role::Bridge,
            pod: None,
            direction: Direction::Ingress,
            vlans: Vec::new(),
            forward: None,
            reply: None,
            errors: Default::default(),
            tuple: None,
        };
        hops.insert(at, hop);
    }
}
