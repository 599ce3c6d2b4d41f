//! Going on where an earlier agent ended: what was told is noted beside the counts, and read at
//! the start.
//!
//! Each note is written when it cannot be wrong: what was told after it was written to the flow
//! log, what a record held before the record is taken out of the kernel's table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nodescope_ebpf::{Counter, HopKey};

use super::Engine;
use crate::datapath::ledger::{Kept, KeptKey, Remembered, Saved, Told};
use crate::datapath::{Error, Ledger, Method};
use crate::flow::{AtHop, Counts, Event, Flow, InterfaceInfo, Moment, Role, ToldOf};
use crate::node::NodeView;

/// Notes that records have reached whoever must not miss any.
#[derive(Clone, Debug, Default)]
pub struct Settle(Option<Arc<Ledger>>);

impl Settle {
    /// These records are out, in this order.
    pub fn told(&self, flows: &[Arc<Flow>]) {
        let Some(ledger) = &self.0 else {
            return;
        };
        let mut told: HashMap<u64, Told> = HashMap::new();
        let (mut over, mut hops) = (Vec::new(), Vec::new());
        for flow in flows {
            let Some(mark) = &flow.mark else {
                continue;
            };
            let id = flow.connection;
            if flow.event == Event::Close {
                told.remove(&id);
                over.push(id);
                hops.extend(mark.hops.iter().map(|key| kept_key(id, key)));
                continue;
            }
            let entry = Told {
                key: mark.key,
                incarnation: mark.incarnation.into(),
                first_ns: mark.first_ns,
                forward: counter(flow.forward.total),
                reply: counter(flow.reply.total),
            };
            told.insert(id, entry);
        }
        let told: Vec<(u64, Told)> = told.into_iter().collect();
        let outcome = ledger
            .told(&told)
            .and_then(|()| ledger.forget(&over, &hops));
        if let Err(error) = outcome {
            tracing::warn!(%error, "an agent that is started after a crash would tell some counts twice");
        }
    }
}

/// What the engine itself notes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    ledger: Option<Arc<Ledger>>,
    interfaces: HashMap<u32, Remembered>,
    /// Interfaces whose note is not up to date.
    changed: HashSet<u32>,
}

impl Notes {
    pub(super) fn new(ledger: Option<Arc<Ledger>>) -> Self {
        Self {
            ledger,
            ..Self::default()
        }
    }

    /// Whether anything is noted at all.
    pub(super) fn is_kept(&self) -> bool {
        self.ledger.is_some()
    }

    /// An interface has hooks now.
    fn interface(&mut self, ifindex: u32, info: &InterfaceInfo, flags: u32) {
        let note = self.interfaces.entry(ifindex).or_default();
        let before = *note;
        note.name = [0; 16];
        for (to, from) in note.name.iter_mut().zip(info.name.bytes()) {
            *to = from;
        }
        note.role = info.role as u32;
        note.flags = before.flags & Remembered::QDISC | flags;
        if *note != before {
            self.changed.insert(ifindex);
        }
    }

    /// A record's counts left the kernel's table.
    fn taken(&mut self, key: &HopKey, ab: Counter, ba: Counter) {
        let note = self.interfaces.entry(key.ifindex).or_default();
        let (ingress, egress) = match key.orientation {
            0 => (ab, ba),
            _ => (ba, ab),
        };
        for (sum, more) in [(&mut note.ingress, ingress), (&mut note.egress, egress)] {
            sum.packets += more.packets;
            sum.bytes += more.bytes;
        }
        self.changed.insert(key.ifindex);
    }
}

impl Engine {
    /// What notes that records are out.
    pub fn settle(&self) -> Settle {
        Settle(self.notes.ledger.clone())
    }

    /// Takes over what an earlier agent knew. The kernel's records are read afterwards.
    pub(super) fn resume(&mut self) {
        let Some(ledger) = self.notes.ledger.clone() else {
            return;
        };
        if !self.datapath.taken_over() {
            return;
        }
        let outcome = ledger.read().and_then(|saved| self.restore(&ledger, saved));
        if let Err(error) = outcome {
            self.drain.failures += 1;
            tracing::warn!(%error, "what an earlier agent told is not known: some counts are told twice");
        }
    }

    fn restore(&mut self, ledger: &Ledger, saved: Saved) -> Result<(), Error> {
        let now = Moment::now().monotonic_ns;
        for (ifindex, note) in saved.interfaces {
            let hooks = (counts(note.ingress), counts(note.egress));
            self.hooks.insert(ifindex, hooks);
            let master = self.datapath.master(ifindex);
            self.interfaces.insert(ifindex, described(&note, master));
            self.notes.interfaces.insert(ifindex, note);
        }
        let told = saved.told.into_iter().map(|(connection, told)| ToldOf {
            connection,
            key: told.key,
            first_ns: told.first_ns,
            // Noted from eight bits.
            incarnation: told.incarnation as u8,
            forward: counts(told.forward),
            reply: counts(told.reply),
        });
        let kept = saved.kept.into_iter().map(|(at, kept)| AtHop {
            connection: at.connection,
            key: at.key,
            record: kept.record,
            ab: counts(kept.ab),
            ba: counts(kept.ba),
        });
        let datapath = &self.datapath;
        let left = |key: &HopKey| datapath.left(key);
        let resumed = self
            .tracker
            .resume(told.collect(), kept.collect(), left, now);
        for (key, gain) in resumed.gains {
            self.gain(key.ifindex, gain);
            let hop = self.tracker.at_hop(&key);
            if hop.is_some_and(|hop| hop.record.extra != 0)
                && let Some(extra) = self.datapath.extra(&key)
            {
                self.tracker.describe(&key, extra);
            }
        }
        tracing::info!(
            connections = self.tracker.len(),
            "went on with what an earlier agent left"
        );
        ledger.forget(&resumed.over, &[])
    }

    /// Once the hooks are on: reads a table that was replaced to its end, and forgets interfaces
    /// that are gone.
    pub(super) fn settle_in(&mut self, view: &NodeView) {
        if !self.datapath.taken_over() {
            return;
        }
        let now = Moment::now();
        let earlier = self.datapath.take_earlier().unwrap_or_else(|error| {
            self.drain.failures += 1;
            tracing::warn!(%error, "reading the table of an earlier agent");
            Vec::new()
        });
        let keys: Vec<HopKey> = earlier.iter().map(|(key, _, _)| *key).collect();
        for (key, record, nat) in &earlier {
            if self.tracker.news(key, record).is_some() {
                let (gain, _) = self
                    .tracker
                    .observe(key, record, nat.as_ref(), now.monotonic_ns);
                self.gain(key.ifindex, gain);
            }
        }
        self.keep(&keys);
        for (key, record, _) in &earlier {
            self.notes.taken(key, record.ab, record.ba);
            self.tracker.taken(key);
        }
        self.drain_all();
        let mut left = self.datapath.left_interfaces();
        left.extend(self.tracker.interfaces());
        left.extend(self.notes.interfaces.keys());
        left.remove(&0);
        for ifindex in left {
            if self.datapath.is_attached(ifindex) {
                continue;
            }
            let interface = view.interfaces.get(&ifindex);
            self.datapath
                .detach_left(ifindex, interface.map(|interface| &*interface.name));
            self.leave(ifindex, interface.is_none());
        }
        self.save();
    }

    /// An interface has hooks now.
    pub(super) fn remember(&mut self, ifindex: u32) {
        if self.notes.ledger.is_some()
            && let Some(info) = self.interfaces.get(&ifindex)
        {
            let filtered = self.datapath.method_at(ifindex) == Some(Method::Clsact);
            let flags = [
                (filtered, Remembered::FILTERED),
                (self.datapath.made_qdisc(ifindex), Remembered::QDISC),
            ];
            let flags = flags.iter().filter(|(so, _)| *so).map(|(_, flag)| flag);
            self.notes.interface(ifindex, info, flags.sum());
        }
    }

    /// Notes what records hold before they are taken out of the kernel's table.
    pub(super) fn keep(&mut self, keys: &[HopKey]) {
        let hops = keys.iter().filter_map(|key| self.tracker.at_hop(key));
        self.note(hops.collect());
    }

    /// Notes hops whose record went over to another connection.
    pub(super) fn part(&mut self) {
        let parted = self.tracker.take_parted();
        if !parted.is_empty() {
            self.note(parted);
        }
    }

    fn note(&mut self, hops: Vec<AtHop>) {
        let Some(ledger) = &self.notes.ledger else {
            return;
        };
        let entry = |hop: &AtHop| {
            let kept = Kept {
                record: hop.record,
                ab: counter(hop.ab),
                ba: counter(hop.ba),
            };
            (kept_key(hop.connection, &hop.key), kept)
        };
        let entries: Vec<_> = hops.iter().map(entry).collect();
        if let Err(error) = ledger.keep(&entries) {
            self.drain.failures += 1;
            tracing::warn!(%error, "an agent that is started after a crash would miss some counts");
        }
    }

    /// A record is out of the kernel's table; [`Engine::save`] notes it.
    pub(super) fn was_taken(&mut self, key: &HopKey, ab: Counter, ba: Counter) {
        if self.notes.ledger.is_some() {
            self.notes.taken(key, ab, ba);
        }
    }

    /// Forgets what is noted of an interface that is gone.
    pub(super) fn forget_note(&mut self, ifindex: u32) {
        self.notes.interfaces.remove(&ifindex);
        self.notes.changed.insert(ifindex);
    }

    /// Writes down what changed of interfaces.
    pub(super) fn save(&mut self) {
        let Some(ledger) = &self.notes.ledger else {
            return;
        };
        if self.notes.changed.is_empty() {
            return;
        }
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for ifindex in self.notes.changed.drain() {
            match self.notes.interfaces.get(&ifindex) {
                Some(note) => there.push((ifindex, *note)),
                None => gone.push(ifindex),
            }
        }
        let outcome = ledger
            .remember(&there)
            .and_then(|()| ledger.forget_interfaces(&gone));
        if let Err(error) = outcome {
            self.drain.failures += 1;
            tracing::warn!(%error, "noting what hooks counted");
        }
    }
}

fn kept_key(connection: u64, key: &HopKey) -> KeptKey {
    KeptKey {
        connection,
        key: *key,
        reserved: 0,
    }
}

fn counts(counter: Counter) -> Counts {
    Counts {
        packets: counter.packets,
        bytes: counter.bytes,
    }
}

fn counter(counts: Counts) -> Counter {
    Counter {
        packets: counts.packets,
        bytes: counts.bytes,
    }
}

/// An interface as it was noted.
fn described(note: &Remembered, master: Option<u32>) -> InterfaceInfo {
    let name = note.name.split(|byte| *byte == 0).next();
    let roles = [
        Role::Pod,
        Role::Bridge,
        Role::Uplink,
        Role::Tunnel,
        Role::Other,
    ];
    InterfaceInfo {
        name: String::from_utf8_lossy(name.unwrap_or_default()).into(),
        role: roles
            .into_iter()
            .find(|role| *role as u32 == note.role)
            .unwrap_or(Role::Other),
        master,
    }
}
