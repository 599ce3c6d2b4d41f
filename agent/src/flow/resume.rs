//! A tracker that goes on where that of an earlier agent ended: what it knew of connections
//! beyond the kernel's records, and how each is found again in the kernel's table.

use std::cmp::Reverse;
use std::collections::HashMap;

use nodescope_ebpf::{HopKey, HopRecord, NatRecord, NatState};

use super::model::{Counts, Protocol};
use super::store::{At, Directed, coarse};
use super::tracker::{Gain, Tracker};
use super::tuple::Conversation;

/// How a connection is found again in the kernel's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// A record that belongs to it.
    pub key: HopKey,
    /// That record's first time, `CLOCK_MONOTONIC` nanoseconds; 0 when none is left there.
    pub first_ns: u64,
    /// How often that record had begun anew.
    pub incarnation: u8,
    /// Of a connection that is over: all its hops.
    pub hops: Vec<HopKey>,
}

/// What a connection has at one hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtHop {
    /// The connection's id.
    pub connection: u64,
    /// The hop.
    pub key: HopKey,
    /// The kernel's record when the counts were as follows.
    pub record: HopRecord,
    /// From the key's `a` to its `b`.
    pub ab: Counts,
    /// From `b` to `a`.
    pub ba: Counts,
}

/// What was told of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldOf {
    /// Its id.
    pub connection: u64,
    /// A record that belongs to it.
    pub key: HopKey,
    /// That record's first time.
    pub first_ns: u64,
    /// How often that record had begun anew.
    pub incarnation: u8,
    /// The initiator's packets and bytes in all records together.
    pub forward: Counts,
    /// The answer's.
    pub reply: Counts,
}

/// What came of going on.
#[derive(Debug, Default)]
pub struct Resumed {
    /// What hooks counted of records that are known now.
    pub gains: Vec<(HopKey, Gain)>,
    /// Connections of which nothing is left to tell.
    pub over: Vec<u64>,
}

impl Resumed {
    fn restored(&mut self, gain: Option<Gain>, key: &HopKey) {
        self.gains.extend(gain.map(|gain| (*key, gain)));
    }
}

impl Tracker {
    /// How a connection is found again, and with `all` every hop of it.
    pub fn mark(&self, id: u64, all: bool) -> Option<Mark> {
        let store = &self.store;
        let at = store.by_id(id)?;
        let here = store.hops_of(at).find(|(_, hop)| hop.here);
        let (key, first_ns, incarnation) = match here {
            Some((at, hop)) => (store.key(at), hop.first_ns, hop.incarnation),
            None => (store.key(store.hops_of(at).next()?.0), 0, 0),
        };
        let hops = if all {
            store.hops_of(at).map(|(at, _)| store.key(at)).collect()
        } else {
            Vec::new()
        };
        Some(Mark {
            key,
            first_ns,
            incarnation,
            hops,
        })
    }

    /// What the connection that a record belongs to has at its hop.
    pub fn at_hop(&self, key: &HopKey) -> Option<AtHop> {
        Some(self.state_of(self.store.hop(key)?))
    }

    /// What a connection has at a hop.
    fn connection_at(&self, id: u64, key: &HopKey) -> Option<AtHop> {
        let mut hops = self.store.hops_of(self.store.by_id(id)?);
        let (at, _) = hops.find(|(at, _)| self.store.key(*at) == *key)?;
        Some(self.state_of(at))
    }

    fn state_of(&self, at: At) -> AtHop {
        let hop = &self.store.hops[at as usize];
        let [ab, ba] = hop.counts();
        AtHop {
            connection: self.store.nodes[hop.connection as usize].id,
            key: self.store.key(at),
            record: hop.record(),
            ab,
            ba,
        }
    }

    /// Hops at which connections have other counts than the kernel's records, because those went
    /// over to another connection since the last time this was asked.
    pub fn take_parted(&mut self) -> Vec<AtHop> {
        if self.parted.is_empty() {
            return Vec::new();
        }
        let parted = std::mem::take(&mut self.parted);
        let hops = parted
            .iter()
            .filter_map(|(id, key)| self.connection_at(*id, key));
        hops.filter(|hop| {
            let own = self.at_hop(&hop.key).map(|here| here.connection);
            let record = [hop.record.ab.into(), hop.record.ba.into()];
            own != Some(hop.connection) || [hop.ab, hop.ba] != record
        })
        .collect()
    }

    /// Goes on from what was noted. `left` gives a record of the kernel's, with its conntrack
    /// entry, as it is now. The kernel's other records are to be observed afterwards.
    pub fn resume(
        &mut self,
        mut told: Vec<ToldOf>,
        kept: Vec<AtHop>,
        left: impl Fn(&HopKey) -> Option<(HopRecord, Option<NatRecord>)>,
        now_ns: u64,
    ) -> Resumed {
        let mut resumed = Resumed::default();
        let mut kept: HashMap<(u64, HopKey), AtHop> = kept
            .into_iter()
            .map(|hop| ((hop.connection, hop.key), hop))
            .collect();
        // The newest first: a port's conversation is that of who used it last.
        told.sort_unstable_by_key(|one| Reverse(one.connection));
        for one in &told {
            let (id, key) = (one.connection, &one.key);
            if let Some(hop) = kept.remove(&(id, *key)) {
                resumed.restored(self.restore(&hop, left(key), now_ns), key);
            } else if let Some((record, nat)) = left(key)
                && record.first_ns == one.first_ns
            {
                let nat = nat.filter(|_| is_translated(&record));
                let gain = if record.incarnation == one.incarnation {
                    let next = std::mem::replace(&mut self.next, id);
                    let (gain, _) = self.observe(key, &record, nat.as_ref(), now_ns);
                    self.next = next;
                    Some(gain)
                } else {
                    self.begun_anew(one, &record, nat, now_ns)
                };
                resumed.restored(gain, key);
            }
        }
        let mut rest: Vec<AtHop> = kept.into_values().collect();
        rest.sort_unstable_by_key(|hop| Reverse(hop.connection));
        for hop in &rest {
            resumed.restored(self.restore(hop, left(&hop.key), now_ns), &hop.key);
        }
        for one in told {
            match self.store.by_id(one.connection) {
                Some(at) => {
                    let node = &mut self.store.nodes[at as usize];
                    node.reported = (one.forward, one.reply);
                    node.opened = true;
                }
                // Nothing of it is left to tell.
                None => resumed.over.push(one.connection),
            }
        }
        resumed
    }

    /// Puts back what a connection had at a hop; gives what its hook counted until then, where the
    /// kernel's record is still the same and its counts are nowhere else.
    pub(super) fn restore(
        &mut self,
        noted: &AtHop,
        left: Option<(HopRecord, Option<NatRecord>)>,
        now_ns: u64,
    ) -> Option<Gain> {
        let (id, key, record) = (noted.connection, &noted.key, &noted.record);
        let nat = left
            .and_then(|(_, nat)| nat)
            .filter(|_| is_translated(record));
        let at = match self.store.by_id(id) {
            Some(at) => {
                let conversation = Conversation::of_key(key);
                if self.store.owner(&conversation).is_none() {
                    self.store.own(&conversation, at);
                }
                at
            }
            None => {
                let next = std::mem::replace(&mut self.next, id);
                let mut at = self.place(key, record, nat.as_ref(), None, false, now_ns);
                let placed = &self.store.nodes[at as usize];
                // A port used anew: both connections have the same conversation, and it is the
                // newer one's.
                if placed.id != id {
                    let Directed { name, from_a } = placed.tuple;
                    let own = self.store.names[name as usize].conversation;
                    at = self.make(&own, from_a, true, record.first_ns, now_ns);
                }
                self.next = next;
                at
            }
        };
        let hop = self.store.hop_of(at, key);
        let state = &mut self.store.hops[hop as usize];
        state.add(record, [noted.ab, noted.ba]);
        state.changed = coarse(now_ns);
        let node = &mut self.store.nodes[at as usize];
        node.first_ns = node.first_ns.min(record.first_ns);
        if key.protocol == Protocol::TCP.0 {
            self.judge(at, now_ns);
        }
        // The kernel's record is still that of the note: what it gained since then comes on top.
        if left.is_none_or(|(now, _)| now.first_ns != record.first_ns) {
            return None;
        }
        // Of two connections that a record belonged to, it goes on with the later one.
        let packets = |record: &HopRecord| record.ab.packets + record.ba.packets;
        let other = self.store.hop(key);
        let before = other.map(|at| self.store.hops[at as usize].record());
        if before.is_some_and(|other| packets(&other) > packets(record)) {
            return None;
        }
        let base = before.unwrap_or_default();
        let ab = Counts::from(record.ab) - base.ab.into();
        let ba = Counts::from(record.ba) - base.ba.into();
        if let Some(other) = other {
            self.store.set_here(other, false);
        }
        self.store.set_here(hop, true);
        Some(Gain::of(key, ab, ba))
    }

    /// Interfaces of the records that are known.
    pub fn interfaces(&self) -> std::collections::BTreeSet<u32> {
        let hops = self.store.hops.iter();
        hops.filter(|(_, hop)| hop.here)
            .map(|(_, hop)| hop.ifindex)
            .collect()
    }
}

pub(super) fn is_translated(record: &HopRecord) -> bool {
    NatState::of(record.nat) == NatState::Translated
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
