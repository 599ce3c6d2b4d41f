//! Agents that end at any moment, on a kernel made by hand: each packet is told once.

use std::collections::BTreeMap;
use std::sync::Arc;

use nodescope_ebpf::packet::{Echo, Packet, tcp_flag};
use nodescope_ebpf::{Counter, Kind, mapped};

use super::super::{Event, Interfaces, Moment, flow};
use super::*;

/// Two hooks, through which each packet passes.
const HOOKS: [(u32, bool); 2] = [(15, false), (2, true)];
const BYTES: u64 = 100;

fn key(ifindex: u32, egress: bool, port: u16) -> (HopKey, bool) {
    let packet = Packet {
        source: mapped([10, 244, 0, 15]),
        destination: mapped([10, 224, 1, 2]),
        source_port: port,
        destination_port: 8080,
        protocol: 6,
        kind: Kind::Ports,
        flags: 0,
        echo: Echo::No,
    };
    packet.key(ifindex, egress)
}

/// What outlives an agent: the kernel's table, the notes beside it, and what was told.
#[derive(Default)]
struct World {
    clock: u64,
    table: BTreeMap<(u32, u16), HopRecord>,
    told: HashMap<u64, ToldOf>,
    kept: HashMap<(u64, HopKey), AtHop>,
    sent: u64,
    said: u64,
    opened: HashMap<u64, u32>,
}

impl World {
    /// A packet of the connection with this port; `anew`: a SYN that begins another one.
    fn send(&mut self, port: u16, anew: bool) {
        self.clock += 1;
        self.sent += 1;
        for (ifindex, egress) in HOOKS {
            let (_, forward) = key(ifindex, egress, port);
            let now = self.clock;
            let record = self
                .table
                .entry((ifindex, port))
                .or_insert_with(|| HopRecord {
                    first_ns: now,
                    opener: u8::from(!forward),
                    ..HopRecord::default()
                });
            let counter = if forward {
                &mut record.ab
            } else {
                &mut record.ba
            };
            *counter = Counter {
                packets: counter.packets + 1,
                bytes: counter.bytes + BYTES,
            };
            if anew {
                record.incarnation += 1;
                record.request_ns = now;
            }
        }
    }

    fn observe(&mut self, tracker: &mut Tracker) {
        self.clock += 1;
        for ((ifindex, port), record) in &self.table {
            let egress = HOOKS.contains(&(*ifindex, true));
            let (key, _) = key(*ifindex, egress, *port);
            if tracker.news(&key, record).is_some() {
                tracker.observe(&key, record, None, self.clock);
            }
        }
        self.keep(tracker.take_parted());
    }

    fn keep(&mut self, hops: Vec<AtHop>) {
        let notes = hops.into_iter().map(|hop| ((hop.connection, hop.key), hop));
        self.kept.extend(notes);
    }

    /// Takes records out of the table; with `killed` the agent dies right after so many.
    fn take(&mut self, tracker: &mut Tracker, keys: &[HopKey], killed: Option<usize>) {
        self.keep(keys.iter().filter_map(|key| tracker.at_hop(key)).collect());
        for key in keys.iter().take(killed.unwrap_or(usize::MAX)) {
            let port = if key.a_port == 8080 {
                key.b_port
            } else {
                key.a_port
            };
            self.table.remove(&(key.ifindex, port));
            tracker.taken(key);
        }
    }

    fn tell(&mut self, tracker: &mut Tracker, id: u64, event: Event) {
        let mark = tracker.mark(id, event == Event::Close);
        let (Some(connection), Some(standing), Some(mark)) =
            (tracker.get(id), tracker.standing(id), mark)
        else {
            return;
        };
        let now = Moment {
            wall: std::time::SystemTime::UNIX_EPOCH,
            monotonic_ns: self.clock,
        };
        let record = flow(
            &connection,
            event,
            &Arc::from("node"),
            &Interfaces::new(),
            now,
        );
        let (forward, reply) = (record.forward, record.reply);
        assert_eq!(forward.delta.bytes, forward.delta.packets * BYTES);
        self.said += forward.delta.packets + reply.delta.packets;
        if !standing.opened {
            *self.opened.entry(id).or_default() += 1;
        }
        tracker.reported(id, (forward.total, reply.total));
        if event == Event::Close {
            for key in mark.hops {
                self.kept.remove(&(id, key));
            }
            self.told.remove(&id);
            tracker.close(id, self.clock);
        } else {
            let told = ToldOf {
                connection: id,
                key: mark.key,
                first_ns: mark.first_ns,
                incarnation: mark.incarnation,
                forward: forward.total,
                reply: reply.total,
            };
            self.told.insert(id, told);
        }
    }

    /// An agent after another.
    fn next_agent(&mut self) -> Tracker {
        self.clock += 1;
        let mut tracker = Tracker::new(self.clock << 24);
        let left = |key: &HopKey| {
            let port = if key.a_port == 8080 {
                key.b_port
            } else {
                key.a_port
            };
            Some((*self.table.get(&(key.ifindex, port))?, None))
        };
        let told = self.told.values().copied().collect();
        let kept = self.kept.values().copied().collect();
        let resumed = tracker.resume(told, kept, left, self.clock);
        for id in resumed.over {
            self.told.remove(&id);
        }
        self.observe(&mut tracker);
        tracker
    }

    fn tell_all(&mut self, tracker: &mut Tracker) {
        self.observe(tracker);
        for id in tracker.ids() {
            let event = if tracker.standing(id).is_some_and(|one| one.opened) {
                Event::Update
            } else {
                Event::Open
            };
            self.tell(tracker, id, event);
        }
    }
}

/// Numbers that look random, from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // Numerical Recipes, 7.1: a linear congruential generator.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn whenever_an_agent_dies_each_packet_is_told_once() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut world = World::default();
        let mut tracker = Tracker::new(1);
        for _ in 0..80 {
            let port = 40_000 + dice.below(3) as u16;
            let ids = tracker.ids();
            let chosen = ids.get(dice.below(4) as usize).copied();
            match dice.below(9) {
                0..=2 => world.send(port, false),
                3 => world.observe(&mut tracker),
                4 => world.tell_all(&mut tracker),
                5 => {
                    if let Some(id) = chosen {
                        world.observe(&mut tracker);
                        let keys = tracker.records_of(id);
                        world.take(&mut tracker, &keys, None);
                        world.tell(&mut tracker, id, Event::Close);
                    }
                }
                6 => {
                    world.observe(&mut tracker);
                    if let Some(id) = chosen {
                        let keys = tracker.records_of(id);
                        world.take(&mut tracker, &keys, None);
                    }
                }
                // Killed, maybe between two records that it takes out.
                7 => {
                    world.observe(&mut tracker);
                    if let Some(id) = chosen {
                        let keys = tracker.records_of(id);
                        let after = dice.below(3) as usize;
                        world.take(&mut tracker, &keys, Some(after));
                    }
                    tracker = world.next_agent();
                }
                _ => tracker = world.next_agent(),
            }
        }
        world.tell_all(&mut tracker);
        assert_eq!(world.said, world.sent, "seed {seed}");
        assert!(
            world.opened.values().all(|times| *times == 1),
            "seed {seed}: {:?}",
            world.opened
        );
    }
}

/// A port is used anew while the connection before is not told to its end, and the agent dies.
#[test]
fn a_port_used_anew_is_told_once() {
    for told_between in [false, true] {
        for closed in [false, true] {
            let mut world = World::default();
            let mut tracker = Tracker::new(1);
            for _ in 0..4 {
                world.send(40_000, false);
            }
            world.tell_all(&mut tracker);
            let old = tracker.ids();
            // It is over, as a FIN of both ends says.
            for record in world.table.values_mut() {
                record.ab_flags = tcp_flag::FIN;
                record.ba_flags = tcp_flag::FIN;
            }
            world.send(40_000, false);
            world.observe(&mut tracker);
            for _ in 0..3 {
                world.send(40_000, true);
            }
            if told_between {
                world.tell_all(&mut tracker);
            } else {
                world.observe(&mut tracker);
            }
            if closed {
                old.iter()
                    .for_each(|id| world.tell(&mut tracker, *id, Event::Close));
            }
            let mut tracker = world.next_agent();
            world.send(40_000, false);
            world.tell_all(&mut tracker);
            assert_eq!(world.said, world.sent, "{told_between} {closed}");
        }
    }
}

/// A port is used anew while no agent runs: its two connections are told apart at each hop.
#[test]
fn a_port_used_anew_while_nobody_looks_is_two_connections() {
    let mut world = World::default();
    let mut tracker = Tracker::new(7);
    for _ in 0..5 {
        world.send(40_000, false);
    }
    world.tell_all(&mut tracker);
    // Longer than a SYN takes to pass the node.
    world.clock += 1_000_000_000;
    world.send(40_000, true);
    world.send(40_000, false);
    let mut tracker = world.next_agent();
    world.tell_all(&mut tracker);
    assert_eq!(world.said, world.sent);
    let mut found: Vec<_> = tracker
        .ids()
        .into_iter()
        .filter_map(|id| tracker.get(id))
        .map(|one| {
            let hops: Vec<u64> = one
                .hops
                .iter()
                .map(|hop| hop.ab.packets + hop.ba.packets)
                .collect();
            (one.id == 7, one.ended, hops)
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [(false, false, vec![2, 2]), (true, true, vec![5, 5])]
    );
    assert_eq!(world.opened.values().sum::<u32>(), 2);
}

/// Two connections of one port between two readings: the end of the first was never seen.
#[test]
fn a_port_used_anew_between_two_readings_is_two_connections() {
    let mut world = World::default();
    let mut tracker = Tracker::new(7);
    world.send(40_000, false);
    world.tell_all(&mut tracker);
    world.send(40_000, true);
    world.tell_all(&mut tracker);
    assert_eq!(tracker.len(), 2);
    assert!(tracker.get(7).is_some_and(|old| old.ended));
    assert_eq!(world.said, world.sent);
}

#[test]
fn a_connection_keeps_its_id_and_totals() {
    let mut world = World::default();
    let mut tracker = Tracker::new(7);
    world.send(40_000, false);
    world.tell_all(&mut tracker);
    world.send(40_000, false);
    let mut tracker = world.next_agent();
    world.tell_all(&mut tracker);
    assert_eq!(tracker.ids(), [7]);
    assert_eq!(world.told[&7].forward.packets, 2);
    assert_eq!(world.opened, HashMap::from([(7, 1)]));
}
