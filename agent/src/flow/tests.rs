//! Joining records into connections, on records made by hand.

use std::sync::Arc;
use std::time::SystemTime;

use nodescope_ebpf::packet::{Echo, Packet};
use nodescope_ebpf::{Counter, HopKey, HopRecord, Kind, NatRecord, NatState, NatTuple, mapped};

use super::*;

const SECOND: u64 = 1_000_000_000;
const VETH: u32 = 15;
const VETH2: u32 = 16;
const BRIDGE: u32 = 3;
const UPLINK: u32 = 2;
const POD: ([u8; 4], u16) = ([10, 244, 0, 15], 60996);
const VM: ([u8; 4], u16) = ([10, 224, 1, 2], 8080);
const NODE: ([u8; 4], u16) = ([10, 224, 0, 4], 1024);

type End = ([u8; 4], u16);

/// A record of packets `from` → `to` and back, the first of them seen at ingress or egress.
fn hop(
    ifindex: u32,
    egress: bool,
    from: End,
    to: End,
    there: u64,
    back: u64,
) -> (HopKey, HopRecord) {
    let packet = Packet {
        source: mapped(from.0),
        destination: mapped(to.0),
        source_port: from.1,
        destination_port: to.1,
        protocol: 6,
        kind: Kind::Ports,
        flags: 0,
        echo: Echo::No,
    };
    let (key, forward) = packet.key(ifindex, egress);
    let counter = |packets| Counter {
        packets,
        bytes: packets * 100,
    };
    let (ab, ba) = if forward {
        (there, back)
    } else {
        (back, there)
    };
    let record = HopRecord {
        ab: counter(ab),
        ba: counter(ba),
        first_ns: SECOND,
        opener: u8::from(!forward),
        ..HopRecord::default()
    };
    (key, record)
}

fn udp((mut key, record): (HopKey, HopRecord)) -> (HopKey, HopRecord) {
    key.protocol = 17;
    (key, record)
}

fn translated(mut record: HopRecord) -> HopRecord {
    record.nat = NatState::Translated as u8;
    record
}

/// The conntrack entry of `from` → `to`, seen by the far end as `seen`.
fn masquerade(from: End, to: End, seen: End, protocol: u8) -> NatRecord {
    NatRecord {
        original: NatTuple {
            source: mapped(from.0),
            destination: mapped(to.0),
            source_port: from.1,
            destination_port: to.1,
        },
        reply: NatTuple {
            source: mapped(to.0),
            destination: mapped(seen.0),
            source_port: to.1,
            destination_port: seen.1,
        },
        protocol,
        ..NatRecord::default()
    }
}

pub(super) fn interfaces() -> Interfaces {
    [
        (UPLINK, "eth0", Role::Uplink, None),
        (BRIDGE, "cbr0", Role::Bridge, None),
        (VETH, "veth1", Role::Pod, Some(BRIDGE)),
        (VETH2, "veth2", Role::Pod, Some(BRIDGE)),
    ]
    .into_iter()
    .map(|(ifindex, name, role, master)| {
        let name = Arc::from(name);
        (ifindex, InterfaceInfo { name, role, master })
    })
    .collect()
}

pub(super) fn moment() -> Moment {
    Moment {
        wall: SystemTime::UNIX_EPOCH,
        monotonic_ns: 2 * SECOND,
    }
}

fn report(tracker: &Tracker, id: u64) -> Flow {
    let Some(connection) = tracker.get(id) else {
        panic!("there is no connection {id}");
    };
    flow(
        &connection,
        Event::Update,
        &Arc::from("node"),
        &interfaces(),
        moment(),
    )
}

fn path(flow: &Flow) -> Vec<&str> {
    flow.hops.iter().map(|hop| &*hop.interface).collect()
}

#[test]
fn a_masqueraded_connection_is_one_and_seen_as_the_far_end_sees_it() {
    let mut tracker = Tracker::new(1);
    let (key, record) = hop(VETH, false, POD, VM, 5, 4);
    let (_, first) = tracker.observe(&key, &record, None, SECOND);
    let (key, record) = hop(BRIDGE, false, POD, VM, 5, 4);
    let (_, second) = tracker.observe(&key, &record, None, SECOND);
    let (key, record) = hop(UPLINK, true, NODE, VM, 5, 4);
    let nat = masquerade(POD, VM, NODE, 6);
    let (gain, third) = tracker.observe(&key, &translated(record), Some(&nat), SECOND);
    assert_eq!([first, second], [third, third]);
    assert_eq!((gain.egress.packets, gain.ingress.packets), (5, 4));
    assert_eq!(tracker.len(), 1);

    let flow = report(&tracker, first);
    assert_eq!(path(&flow), ["veth1", "cbr0", "eth0"]);
    assert_eq!(
        flow.tuple.to_string(),
        "TCP 10.244.0.15:60996 -> 10.224.1.2:8080"
    );
    assert_eq!(flow.remote_sees.to_string(), "10.224.0.4:1024");
    assert_eq!(flow.nat.kind, NatKind::Snat);
    assert_eq!(flow.nat.source, Some(NatSource::Skb));
    assert_eq!(flow.hops[0].tuple, None);
    assert_eq!(
        flow.hops[2].tuple.map(|tuple| tuple.source.to_string()),
        Some("10.224.0.4:1024".to_owned())
    );
    assert_eq!(
        (flow.forward.total.packets, flow.reply.total.packets),
        (5, 4)
    );
}

#[test]
fn an_answer_seen_first_is_a_guess_that_the_translation_mends() {
    let mut tracker = Tracker::new(1);
    // The agent starts in the middle: the uplink sees the far end's packet first.
    let (key, record) = hop(UPLINK, false, VM, NODE, 3, 0);
    let (_, guess) = tracker.observe(&key, &record, None, SECOND);
    assert_eq!(
        report(&tracker, guess).tuple.source.to_string(),
        "10.224.1.2:8080"
    );
    let mut record = translated(record);
    if key.a == mapped(NODE.0) {
        record.ab.packets = 2;
    } else {
        record.ba.packets = 2;
    }
    let nat = masquerade(POD, VM, NODE, 6);
    let (_, known) = tracker.observe(&key, &record, Some(&nat), SECOND);
    // The same connection, now the right way round, nothing counted twice.
    assert_eq!(guess, known);
    let flow = report(&tracker, known);
    assert_eq!(flow.tuple.source.to_string(), "10.244.0.15:60996");
    assert_eq!(
        (flow.forward.total.packets, flow.reply.total.packets),
        (2, 3)
    );
    let (key, record) = hop(VETH, false, POD, VM, 2, 3);
    assert_eq!(tracker.observe(&key, &record, None, SECOND).1, known);
    assert_eq!(tracker.len(), 1);
}

#[test]
fn a_guess_joins_a_connection_that_is_known() {
    let mut tracker = Tracker::new(1);
    let (veth, record) = hop(VETH, false, POD, VM, 7, 0);
    let (_, pod) = tracker.observe(&veth, &record, None, SECOND);
    let (uplink, record) = hop(UPLINK, false, VM, NODE, 6, 0);
    let (_, guess) = tracker.observe(&uplink, &record, None, SECOND);
    assert_ne!(pod, guess);
    let nat = masquerade(POD, VM, NODE, 6);
    let (_, joined) = tracker.observe(&uplink, &translated(record), Some(&nat), SECOND);
    assert_eq!(joined, pod);
    assert_eq!(tracker.len(), 1);
    let flow = report(&tracker, pod);
    assert_eq!(flow.hops[1].reply.map(|counts| counts.packets), Some(6));
}

#[test]
fn colliding_source_ports_are_two_connections() {
    let mut tracker = Tracker::new(1);
    let other = ([10, 244, 0, 16], POD.1);
    let seen = (NODE.0, 61000);
    let mut ids = Vec::new();
    for (ifindex, from, seen) in [(VETH, POD, (NODE.0, POD.1)), (VETH2, other, seen)] {
        let (key, record) = hop(ifindex, false, from, VM, 2, 2);
        let (_, id) = tracker.observe(&key, &record, None, SECOND);
        let (key, record) = hop(UPLINK, true, seen, VM, 2, 2);
        let nat = masquerade(from, VM, seen, 6);
        assert_eq!(
            tracker
                .observe(&key, &translated(record), Some(&nat), SECOND)
                .1,
            id
        );
        assert_eq!(report(&tracker, id).remote_sees.port(), seen.1);
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(tracker.len(), 2);
}

#[test]
fn a_record_taken_out_and_made_anew_counts_on() {
    let mut tracker = Tracker::new(1);
    let (key, record) = hop(VETH, false, POD, VM, 5, 4);
    let (_, id) = tracker.observe(&key, &record, None, SECOND);
    tracker.taken(&key);
    let (_, mut again) = hop(VETH, false, POD, VM, 2, 1);
    again.first_ns = 9 * SECOND;
    let (gain, same) = tracker.observe(&key, &again, None, 9 * SECOND);
    assert_eq!(same, id);
    assert_eq!((gain.ingress.packets, gain.egress.packets), (2, 1));
    let flow = report(&tracker, id);
    assert_eq!(
        (flow.forward.total.packets, flow.reply.total.packets),
        (7, 5)
    );
    // Without having been taken out first: a missed deletion.
    again.first_ns = 10 * SECOND;
    let (gain, _) = tracker.observe(&key, &again, None, 10 * SECOND);
    assert_eq!(gain.ingress.packets, 2);
}

#[test]
fn a_port_used_anew_is_another_connection() {
    let mut tracker = Tracker::new(1);
    let (key, mut record) = hop(VETH, false, POD, VM, 5, 4);
    (record.ab_flags, record.ba_flags) = (0x13, 0x13);
    let (_, first) = tracker.observe(&key, &record, None, SECOND);
    assert!(
        tracker
            .get(first)
            .is_some_and(|connection| connection.ended)
    );
    record.incarnation = 1;
    (record.ab_flags, record.ba_flags) = (0x02, 0);
    record.ab.packets += 1;
    record.ba.packets += 1;
    let (gain, second) = tracker.observe(&key, &record, None, 2 * SECOND);
    assert_ne!(first, second);
    assert_eq!(gain.ingress.packets + gain.egress.packets, 2);
    assert_eq!(report(&tracker, first).forward.total.packets, 5);
    assert_eq!(report(&tracker, second).forward.total.packets, 1);
}

#[test]
fn a_translated_datagram_tuple_is_given_up_before_conntrack_forgets_it() {
    let mut tracker = Tracker::new(1);
    let timeouts = Timeouts::default();
    let (key, record) = udp(hop(UPLINK, true, NODE, VM, 1, 1));
    let nat = masquerade(POD, VM, NODE, 17);
    let (_, first) = tracker.observe(&key, &translated(record), Some(&nat), SECOND);
    assert!(tracker.sweep(20 * SECOND, &timeouts).retire.is_empty());
    let sweep = tracker.sweep(26 * SECOND, &timeouts);
    assert_eq!((sweep.retire, sweep.closed), (vec![key], vec![]));
    tracker.taken(&key);
    // Another pod gets the same port: its packets are its own.
    let other = ([10, 244, 0, 16], 5000);
    let (_, mut record) = udp(hop(UPLINK, true, NODE, VM, 1, 0));
    record.first_ns = 31 * SECOND;
    let nat = masquerade(other, VM, NODE, 17);
    let (_, second) = tracker.observe(&key, &translated(record), Some(&nat), 31 * SECOND);
    assert_ne!(first, second);
    assert_eq!(report(&tracker, first).forward.total.packets, 1);
    assert_eq!(
        report(&tracker, second).tuple.source.to_string(),
        "10.244.0.16:5000"
    );
    // And after a minute the first is over.
    assert_eq!(tracker.sweep(62 * SECOND, &timeouts).closed, vec![first]);
}

#[test]
fn frames_between_two_ports_name_the_bridge_without_counts() {
    let mut tracker = Tracker::new(1);
    let to = ([10, 244, 0, 16], 8080);
    let (key, record) = hop(VETH, false, POD, to, 5, 4);
    let (_, id) = tracker.observe(&key, &record, None, SECOND);
    let (key, record) = hop(VETH2, true, POD, to, 5, 4);
    assert_eq!(tracker.observe(&key, &record, None, SECOND).1, id);
    let flow = report(&tracker, id);
    assert_eq!(path(&flow), ["veth1", "cbr0", "veth2"]);
    assert_eq!((flow.hops[1].forward, flow.hops[1].reply), (None, None));
    assert_eq!(flow.hops[1].role, Role::Bridge);
}

#[test]
fn an_interface_that_sees_another_tuple_on_the_way_back_is_one_hop() {
    let mut tracker = Tracker::new(1);
    let service = ([10, 0, 0, 10], 80);
    let (key, record) = hop(VETH, false, POD, service, 5, 4);
    let (_, id) = tracker.observe(&key, &record, None, SECOND);
    // br_netfilter translates before the bridge takes the frame for itself, and the answer
    // after: the pod's packets come with the backend's address, the answer with the service's.
    let nat = NatRecord {
        reply: NatTuple {
            source: mapped(VM.0),
            destination: mapped(POD.0),
            source_port: VM.1,
            destination_port: POD.1,
        },
        ..masquerade(POD, service, POD, 6)
    };
    let (key, record) = hop(UPLINK, true, POD, VM, 5, 4);
    tracker.observe(&key, &translated(record), Some(&nat), SECOND);
    let (key, record) = hop(BRIDGE, false, POD, VM, 5, 0);
    tracker.observe(&key, &record, None, SECOND);
    let (key, record) = hop(BRIDGE, true, service, POD, 4, 0);
    tracker.observe(&key, &translated(record), Some(&nat), SECOND);
    let flow = report(&tracker, id);
    assert_eq!(path(&flow), ["veth1", "cbr0", "eth0"]);
    let packets = |counts: Option<Counts>| counts.map(|counts| counts.packets);
    assert_eq!(packets(flow.hops[1].forward), Some(5));
    assert_eq!(packets(flow.hops[1].reply), Some(4));
    let tuple = flow.hops[1]
        .tuple
        .map(|tuple| tuple.destination.to_string());
    assert_eq!(tuple.as_deref(), Some("10.224.1.2:8080"));
}

#[test]
fn an_interface_that_goes_ends_what_passed_it() {
    let mut tracker = Tracker::new(1);
    let (key, record) = hop(VETH, false, POD, VM, 5, 4);
    let (_, id) = tracker.observe(&key, &record, None, SECOND);
    tracker.end_at(VETH, 2 * SECOND);
    assert!(tracker.mentions(VETH));
    let sweep = tracker.sweep(4 * SECOND, &Timeouts::default());
    assert_eq!(sweep.closed, vec![id]);
    assert!(tracker.close(id, 4 * SECOND));
    assert!(!tracker.mentions(VETH) && tracker.is_empty());
}

#[test]
fn first_records_wait_until_the_first_packet_has_passed() {
    let mut tracker = Tracker::new(1);
    let (key, record) = hop(VETH, false, POD, VM, 1, 0);
    let (_, id) = tracker.observe(&key, &record, None, SECOND);
    assert!(tracker.waits_to_open());
    assert!(tracker.ready_to_open(SECOND - 1).is_empty());
    assert_eq!(tracker.ready_to_open(SECOND), vec![id]);
    assert!(!tracker.waits_to_open());
}
