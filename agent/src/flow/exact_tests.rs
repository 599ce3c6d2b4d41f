//! Whatever order packets, drains, evictions and closes come in: every packet is counted once at
//! its hook, and a connection is told once.

use std::collections::{BTreeMap, HashMap};

use nodescope_ebpf::packet::{Echo, Packet};
use nodescope_ebpf::{Counter, HopKey, HopRecord, Kind, NatRecord, NatState, NatTuple, mapped};
use proptest::collection::vec;
use proptest::prelude::*;

use super::model::Event;
use super::tests::{interfaces, moment};
use super::tracker::{Gain, Tracker};
use super::{Place, flow};

const HOOKS: [u32; 3] = [15, 3, 2];
const CONVERSATIONS: u16 = 6;
/// Connections that are kept, and that there may be until they are closed.
const KEPT: usize = 2;
const MOST: usize = 4;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A datagram of a conversation through all hooks, or back.
    Packet { conversation: u16, back: bool },
    /// The agent looks at one record.
    Poke { conversation: u16, hook: usize },
    /// It reads the table, while another packet comes.
    Drain { conversation: u16, at: usize },
    /// It takes so many of the idlest records out.
    Evict(usize),
    /// It closes the idlest connections beyond those that are kept.
    Close,
    /// It closes so many, because they are idle.
    Idle(usize),
    /// It moves what it keeps together.
    Slim,
}

fn step() -> impl Strategy<Value = Step> {
    let conversation = || 0..CONVERSATIONS;
    prop_oneof![
        4 => (conversation(), any::<bool>())
            .prop_map(|(conversation, back)| Step::Packet { conversation, back }),
        2 => (conversation(), 0..3_usize)
            .prop_map(|(conversation, hook)| Step::Poke { conversation, hook }),
        2 => (conversation(), 0..20_usize)
            .prop_map(|(conversation, at)| Step::Drain { conversation, at }),
        1 => (1..4_usize).prop_map(Step::Evict),
        1 => Just(Step::Close),
        1 => (1..4_usize).prop_map(Step::Idle),
        1 => Just(Step::Slim),
    ]
}

/// The kernel's table, the agent, and what both should come to.
struct World {
    now: u64,
    table: BTreeMap<(usize, u16), HopRecord>,
    capacity: usize,
    /// A conversation is one packet, as in a flood.
    once: bool,
    tracker: Tracker,
    gained: HashMap<u32, u64>,
    passed: [u64; 3],
    unattributed: [u64; 3],
    sent: BTreeMap<u16, u64>,
    /// How often a conversation began: by a packet while no record of it was due.
    begun: BTreeMap<u16, u64>,
    open: BTreeMap<u16, bool>,
    told: BTreeMap<u16, (u64, u64)>,
}

impl World {
    fn new(capacity: usize, once: bool) -> Self {
        Self {
            now: 1,
            table: BTreeMap::new(),
            capacity,
            once,
            tracker: Tracker::new(1),
            gained: HashMap::new(),
            passed: [0; 3],
            unattributed: [0; 3],
            sent: BTreeMap::new(),
            begun: BTreeMap::new(),
            open: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    fn packet(&mut self, conversation: u16, back: bool) {
        if self.once && self.sent.contains_key(&conversation) {
            return;
        }
        *self.sent.entry(conversation).or_default() += 1;
        if !std::mem::replace(self.open.entry(conversation).or_default(), true) {
            *self.begun.entry(conversation).or_default() += 1;
        }
        for hook in 0..HOOKS.len() {
            self.now += 1;
            self.passed[hook] += 1;
            let (_, forward) = key(hook, conversation);
            let full = self.table.len() >= self.capacity;
            if full && !self.table.contains_key(&(hook, conversation)) {
                self.unattributed[hook] += 1;
                continue;
            }
            let record = self.table.entry((hook, conversation));
            let record = record.or_insert_with(|| HopRecord {
                first_ns: self.now,
                opener: u8::from(forward == back),
                nat: match entry(conversation) {
                    Some(_) if hook == 2 => NatState::Translated as u8,
                    _ => NatState::Unknown as u8,
                },
                ..HopRecord::default()
            });
            let counter = if forward == back {
                &mut record.ba
            } else {
                &mut record.ab
            };
            *counter = Counter {
                packets: counter.packets + 1,
                bytes: counter.bytes + 100,
            };
        }
    }

    /// As the engine does; false when it waits.
    fn meet(&mut self, at: (usize, u16)) -> bool {
        let Some(record) = self.table.get(&at).copied() else {
            return true;
        };
        let (key, _) = key(at.0, at.1);
        let nat = entry(at.1).filter(|_| at.0 == 2);
        match self.tracker.place_of(&key, &record, nat.as_ref(), MOST) {
            Place::Here => self.observe(at, &record),
            Place::NoRoom => return false,
            Place::Told(already) => {
                self.table.remove(&at);
                let (tracker, now) = (&mut self.tracker, self.now);
                let gain = tracker.observe_rest(&key, &record, &already, nat.as_ref(), None, now);
                self.gain(key.ifindex, gain);
            }
        }
        true
    }

    fn observe(&mut self, (hook, conversation): (usize, u16), record: &HopRecord) {
        let (key, _) = key(hook, conversation);
        let nat = entry(conversation).filter(|_| hook == 2);
        let (gain, _) = self.tracker.observe(&key, record, nat.as_ref(), self.now);
        self.gain(key.ifindex, gain);
    }

    fn gain(&mut self, ifindex: u32, gain: Gain) {
        let packets = gain.ingress.packets + gain.egress.packets;
        *self.gained.entry(ifindex).or_default() += packets;
    }

    fn retire(&mut self, wanted: &HopKey) {
        let all = (0..CONVERSATIONS).flat_map(|one| (0..HOOKS.len()).map(move |hook| (hook, one)));
        let at = all
            .into_iter()
            .find(|(hook, one)| key(*hook, *one).0 == *wanted);
        if let Some(at) = at
            && let Some(record) = self.table.remove(&at)
        {
            self.observe(at, &record);
        }
        self.tracker.taken(wanted);
    }

    fn drain(&mut self, conversation: Option<u16>, at: usize) -> usize {
        self.now += 1;
        let all: Vec<_> = self.table.keys().copied().collect();
        let mut waiting = 0;
        for (number, one) in all.into_iter().enumerate() {
            if number == at
                && let Some(conversation) = conversation
            {
                self.packet(conversation, false);
            }
            // Both ways to find a record agree.
            if let Some(record) = self.table.get(&one) {
                let key = key(one.0, one.1).0;
                let news = self.tracker.news(&key, record);
                assert_eq!(self.tracker.news_of_next(&key, record), news);
            }
            waiting += usize::from(!self.meet(one));
        }
        self.tracker.end_reading(true);
        waiting
    }

    fn close(&mut self, ids: Vec<u64>) {
        for id in ids {
            self.now += 1;
            for key in self.tracker.records_of(id) {
                self.retire(&key);
            }
            if let Some(connection) = self.tracker.get(id) {
                let node = "node".into();
                let said = flow(&connection, Event::Close, &node, &interfaces(), moment());
                let ends = [said.tuple.source, said.tuple.destination];
                let port = ends.map(|end| end.port()).into_iter().max();
                let conversation = port.unwrap_or_default() - 1000;
                let told = self.told.entry(conversation).or_default();
                told.0 += 1;
                told.1 += said.forward.total.packets + said.reply.total.packets;
                self.open.insert(conversation, false);
                let totals = (said.forward.total, said.reply.total);
                self.tracker.reported(id, totals);
            }
            self.tracker.close(id, self.now);
        }
    }

    fn run(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::Packet { conversation, back } => self.packet(conversation, back),
            Step::Poke { conversation, hook } => {
                self.meet((hook, conversation));
            }
            Step::Drain { conversation, at } => {
                self.drain(Some(conversation), at);
            }
            Step::Evict(count) => {
                for key in self.tracker.idlest_records(count, u64::MAX) {
                    self.retire(&key);
                }
            }
            Step::Close => {
                let beyond = self.tracker.len().saturating_sub(KEPT);
                let idlest = self.tracker.idlest_connections(beyond);
                self.close(idlest);
            }
            Step::Slim => self.tracker.store.compact(),
            Step::Idle(count) => {
                let idlest = self.tracker.idlest_connections(count);
                self.close(idlest);
            }
        }
    }

    /// Reads and closes until nothing is left.
    fn finish(&mut self) {
        loop {
            let waiting = self.drain(None, 0);
            let all = self.tracker.ids();
            self.close(all);
            if waiting == 0 && self.table.is_empty() {
                return;
            }
        }
    }
}

/// A conversation's key at a hook, and whether its initiator is the key's `a`. Every other one is
/// masqueraded, to a port of its own.
fn key(hook: usize, conversation: u16) -> (HopKey, bool) {
    let pod = (mapped([10, 244, 0, 15]), 1000 + conversation);
    let seen = (mapped([10, 224, 0, 4]), 2000 + conversation);
    let translated = hook == 2 && entry(conversation).is_some();
    let from = if translated { seen } else { pod };
    let packet = Packet {
        source: from.0,
        destination: mapped([10, 224, 1, 2]),
        source_port: from.1,
        destination_port: 53,
        protocol: 17,
        kind: Kind::Ports,
        flags: 0,
        echo: Echo::No,
    };
    packet.key(HOOKS[hook], hook == 2)
}

fn entry(conversation: u16) -> Option<NatRecord> {
    let tuple = |source, source_port, destination, destination_port| NatTuple {
        source: mapped(source),
        destination: mapped(destination),
        source_port,
        destination_port,
    };
    let (pod, node, far) = ([10, 244, 0, 15], [10, 224, 0, 4], [10, 224, 1, 2]);
    conversation.is_multiple_of(2).then(|| NatRecord {
        original: tuple(pod, 1000 + conversation, far, 53),
        reply: tuple(far, 53, node, 2000 + conversation),
        protocol: 17,
        ..NatRecord::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn told_once_and_sums_are_exact(steps in vec(step(), 0..80)) {
        let mut world = World::new(usize::MAX, false);
        steps.iter().for_each(|step| world.run(step));
        world.finish();
        for (at, ifindex) in HOOKS.iter().enumerate() {
            let gained = world.gained.get(ifindex).copied().unwrap_or_default();
            prop_assert_eq!(gained, world.passed[at]);
        }
        let begun = |conversation| world.begun.get(conversation).copied().unwrap_or_default();
        for (conversation, sent) in &world.sent {
            let told = world.told.get(conversation).copied();
            prop_assert_eq!(told, Some((begun(conversation), *sent)), "of {}", conversation);
        }
    }

    #[test]
    fn a_table_that_is_full_breaks_no_sum(
        steps in vec(step(), 0..80), capacity in 1..12_usize, once: bool,
    ) {
        let mut world = World::new(capacity, once);
        steps.iter().for_each(|step| world.run(step));
        world.finish();
        for (at, ifindex) in HOOKS.iter().enumerate() {
            let gained = world.gained.get(ifindex).copied().unwrap_or_default();
            prop_assert_eq!(gained + world.unattributed[at], world.passed[at]);
        }
        for (conversation, (times, packets)) in &world.told {
            prop_assert!(!once || *times == 1);
            prop_assert!(*packets <= world.sent[conversation]);
        }
    }
}
