//! Ports that were used anew while no agent looked: one record of the kernel's has the counts of
//! two connections, and only the first of them is known.
//!
//! What was told of the first one stays with it; what came on top is given to the second, at
//! every hop, by the times of the SYN that began it.

use std::collections::HashMap;

use nodescope_ebpf::{Counter, HopKey, HopRecord, NatRecord};

use super::model::Counts;
use super::resume::{AtHop, ToldOf};
use super::tracker::{Gain, Tracker};
use super::tuple::Conversation;

/// Within this a SYN has passed all hops of a node, nanoseconds.
const PASSAGE: u64 = 50_000_000;

/// What is known of the first ones, by their conversations, until all records have been read.
pub(super) type Anew = HashMap<Conversation, First>;

/// A connection whose port was used anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    id: u64,
    /// When the SYN of the second one passed a hop.
    second_ns: u64,
    /// The initiator's packets and bytes, and the answer's: all that was told.
    told: (Counts, Counts),
}

/// What the first connection had of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// As its hook counted it.
    pub(super) gain: Gain,
    /// The connection, when all of the record is its.
    pub(super) only: Option<u64>,
}

impl Tracker {
    /// A connection's record has begun anew since it was told of: puts back what was told. Gives
    /// that as the hook's gain; what the record has on top is for whoever observes it.
    pub(super) fn begun_anew(
        &mut self,
        told: &ToldOf,
        record: &HopRecord,
        nat: Option<NatRecord>,
        now_ns: u64,
    ) -> Option<Gain> {
        let first = First {
            id: told.connection,
            second_ns: record.request_ns,
            told: (told.forward, told.reply),
        };
        // The second one may have been opened from the other end; then so has the first.
        let from_a = record.opener == 0;
        let mut noted = first.at(&told.key, record, from_a);
        noted.record.incarnation = told.incarnation;
        let gain = self.restore(&noted, Some((*record, nat)), now_ns);
        if let Some(at) = self.store.by_id(told.connection) {
            self.store.nodes[at as usize].ended_ns = now_ns;
        }
        let own = nat.map(|nat| Conversation::of_nat(&nat.original, nat.protocol));
        for conversation in own.into_iter().chain([Conversation::of_key(&told.key)]) {
            self.anew.insert(conversation, first);
        }
        gain
    }

    /// Gives the first connection its part of a record that nobody has seen yet, where there was
    /// such a connection: told packets, or all when the second one did not come by here.
    pub(super) fn split(
        &mut self,
        key: &HopKey,
        record: &HopRecord,
        nat: Option<&NatRecord>,
        now_ns: u64,
    ) -> Option<Split> {
        if self.anew.is_empty() || self.store.hop(key).is_some() {
            return None;
        }
        let literal = Conversation::of_key(key);
        let own = nat.map(|nat| Conversation::of_nat(&nat.original, nat.protocol));
        let mut names = std::iter::once(literal).chain(own);
        let first = *names.find_map(|name| self.anew.get(&name))?;
        let before = |time: u64| time + PASSAGE < first.second_ns;
        if !before(record.first_ns) {
            return None;
        }
        let at = self.store.by_id(first.id)?;
        let whole = before(record.request_ns);
        let noted = if whole {
            AtHop {
                connection: first.id,
                key: *key,
                record: *record,
                ab: record.ab.into(),
                ba: record.ba.into(),
            }
        } else {
            let from_a = self.store.is_from_a(at, &literal);
            first.at(key, record, from_a.unwrap_or(record.opener == 0))
        };
        let gain = self.restore(&noted, Some((*record, nat.copied())), now_ns)?;
        let only = whole.then_some(first.id);
        Some(Split { gain, only })
    }
}

impl First {
    /// What it had at a hop.
    fn at(&self, key: &HopKey, record: &HopRecord, from_a: bool) -> AtHop {
        let (a, b) = match from_a {
            true => (self.told.0, self.told.1),
            false => (self.told.1, self.told.0),
        };
        let most = |told: Counts, all: Counter| Counter {
            packets: told.packets.min(all.packets),
            bytes: told.bytes.min(all.bytes),
        };
        let (ab, ba) = (most(a, record.ab), most(b, record.ba));
        AtHop {
            connection: self.id,
            key: *key,
            record: HopRecord {
                ab,
                ba,
                incarnation: record.incarnation.wrapping_sub(1),
                ..*record
            },
            ab: ab.into(),
            ba: ba.into(),
        }
    }
}
