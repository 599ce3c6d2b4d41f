//! Connections that have had their last record while a hook may still hold a record of theirs.
//!
//! A connection that is closed early, for want of room, was perhaps never seen at one of its
//! hops: that record is still in the kernel's table, and would come back as a connection of its
//! own. So the conversations of what was closed are remembered until the table has been read as a
//! whole once more, which finds every record that was there at the time.

use std::collections::HashMap;

use nodescope_ebpf::{Counter, HopKey, HopRecord, NatRecord, extra::Extra};

use super::model::Counts;
use super::tracker::{Gain, Tracker};
use super::tuple::{Conversation, translation};

/// What last records said, by hashes of conversations that no sender can choose.
#[derive(Debug, Default)]
pub(super) struct Told {
    hasher: ahash::RandomState,
    newest: HashMap<u64, usize, ahash::RandomState>,
    all: Vec<Last>,
}

/// A last record, under one of the connection's conversations.
#[derive(Debug)]
struct Last {
    closed_ns: u64,
    /// From the conversation's `a` to its `b`, and back: all that was ever told.
    counts: [Counts; 2],
    /// The one before it of the same conversation.
    before: Option<usize>,
}

impl Told {
    pub(super) fn add(&mut self, conversation: &Conversation, closed_ns: u64, counts: [Counts; 2]) {
        let hash = self.hasher.hash_one(conversation);
        let before = self.newest.insert(hash, self.all.len());
        self.all.push(Last {
            closed_ns,
            counts,
            before,
        });
    }

    /// What was told since then of a conversation, if anything was.
    fn since(&self, conversation: &Conversation, first_ns: u64) -> Option<Already> {
        let mut at = self
            .newest
            .get(&self.hasher.hash_one(conversation))
            .copied();
        let mut found: Option<Already> = None;
        while let Some(last) = at.and_then(|at| self.all.get(at)) {
            if last.closed_ns < first_ns {
                break;
            }
            let already = found.get_or_insert(Already {
                closed_ns: last.closed_ns,
                counts: Default::default(),
            });
            already.counts[0] += last.counts[0];
            already.counts[1] += last.counts[1];
            at = last.before;
        }
        found
    }

    fn len(&self) -> usize {
        self.all.len()
    }

    fn clear(&mut self) {
        const KEEP: usize = 4096;
        self.newest.clear();
        self.newest.shrink_to(KEEP);
        self.all.clear();
        self.all.shrink_to(KEEP);
    }
}

/// What of a record has been told with other records of the same packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Already {
    closed_ns: u64,
    counts: [Counts; 2],
}

impl Already {
    /// With its directions exchanged, or not.
    fn turned(mut self, turn: bool) -> Self {
        if turn {
            self.counts.swap(0, 1);
        }
        self
    }
}

/// Whether the initiator of an entry is the `a` of one of its conversations.
fn initiator_is_a(conversation: &Conversation, nat: &NatRecord) -> bool {
    let (original, translated) = translation(nat);
    [original.source, translated.source].contains(&conversation.a())
}

/// What to do with a record of the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its connection is known, or there is room for another one.
    Here,
    /// Its connection has had its last record: the table is to give it up, and the rest of it goes
    /// to [`Tracker::observe_rest`].
    Told(Already),
    /// It has to wait where it is.
    NoRoom,
}

impl Tracker {
    /// What to do with a record, when there may be `most` connections.
    pub fn place_of(
        &self,
        key: &HopKey,
        record: &HopRecord,
        nat: Option<&NatRecord>,
        most: usize,
    ) -> Place {
        let full = self.len() >= most;
        if !full && self.told.all.is_empty() || self.knows(key) {
            return Place::Here;
        }
        let literal = Conversation::of_key(key);
        let original = nat.map(|nat| (nat, Conversation::of_nat(&nat.original, nat.protocol)));
        let already = self.told.since(&literal, record.first_ns).or_else(|| {
            let (nat, original) = original.as_ref()?;
            let already = self.told.since(original, record.first_ns)?;
            Some(already.turned(initiator_is_a(original, nat) != initiator_is_a(&literal, nat)))
        });
        // Before what is known: the conversation may have begun anew since.
        if let Some(already) = already {
            return Place::Told(already);
        }
        let mut both = std::iter::once(literal).chain(original.map(|(_, original)| original));
        if !full || both.any(|conversation| self.find(&conversation).is_some()) {
            Place::Here
        } else {
            Place::NoRoom
        }
    }

    /// Takes in a record that was taken out because its connection was told without it: the hook's
    /// gain is all of it, what came after the last record begins the connection anew.
    pub fn observe_rest(
        &mut self,
        key: &HopKey,
        record: &HopRecord,
        already: &Already,
        nat: Option<&NatRecord>,
        extra: Option<Extra>,
        now_ns: u64,
    ) -> Gain {
        // ICMP errors about it are in the record, and in no direction's counts.
        let errors = extra.map(|extra| extra.errors).unwrap_or_default();
        let rest = |all: Counter, told: Counts, errors: Counter| Counter {
            packets: all
                .packets
                .saturating_sub(told.packets)
                .saturating_sub(errors.packets),
            bytes: all
                .bytes
                .saturating_sub(told.bytes)
                .saturating_sub(errors.bytes),
        };
        let later = HopRecord {
            ab: rest(record.ab, already.counts[0], errors[0]),
            ba: rest(record.ba, already.counts[1], errors[1]),
            first_ns: already.closed_ns + 1,
            extra: 0,
            ..*record
        };
        if later.ab.packets + later.ba.packets > 0 {
            self.observe(key, &later, nat, now_ns);
            self.taken(key);
        }
        Gain::whole(key, record)
    }

    /// How much is remembered of last records, by conversation.
    pub fn remembered(&self) -> usize {
        self.told.len()
    }

    /// All records that were in the kernel's table at the last close have been seen.
    pub(super) fn seen_all(&mut self) {
        self.told.clear();
        self.anew.clear();
    }
}
