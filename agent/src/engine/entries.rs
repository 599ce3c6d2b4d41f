//! Conntrack entries that came by netlink, by the tuples under which hooks see their packets.

use std::collections::HashMap;

use nodescope_ebpf::{HopKey, NatRecord, NatTuple};

use crate::flow::Conversation;
use crate::node::conntrack::{Change, Entry};

/// An entry that is gone is known for so long yet: its last packets may still wait for a drain.
const GRACE_NS: u64 = 5_000_000_000;

#[derive(Debug)]
struct Known {
    entry: Entry,
    /// The reading that has found it, or during which it was new.
    reading: u64,
    /// When it went, on the monotonic clock.
    gone_ns: Option<u64>,
}

/// The table as far as netlink told.
#[derive(Debug, Default)]
pub struct Entries {
    /// By the original tuple.
    known: HashMap<Conversation, Known>,
    /// From a tuple after translation, or between two, to the original.
    aliases: HashMap<Conversation, Conversation>,
    reading: u64,
    limit: usize,
    refused: u64,
}

impl Entries {
    /// None yet, and never more than `limit`.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// The entry of a hop's conversation.
    pub fn of(&self, key: &HopKey) -> Option<&NatRecord> {
        let conversation = Conversation::of_key(key);
        if conversation.is_icmp_message() {
            return None;
        }
        self.known
            .get(&conversation)
            .or_else(|| self.known.get(self.aliases.get(&conversation)?))
            .map(|known| &known.entry.nat)
    }

    /// Takes a change in; gives the conversations of which more is known now.
    pub fn apply(&mut self, change: &Change, now_ns: u64) -> Vec<Conversation> {
        match change {
            Change::New(entry) => self.insert(entry),
            Change::Known(entry) => {
                let original = original(entry);
                match self.known.get_mut(&original) {
                    Some(known) if known.entry.id == entry.id => {
                        known.reading = self.reading;
                        Vec::new()
                    }
                    // One that is not gone is newer than what the reading found.
                    Some(known) if known.gone_ns.is_none() && known.reading == self.reading => {
                        Vec::new()
                    }
                    _ => self.insert(entry),
                }
            }
            Change::Gone(entry) => {
                if let Some(known) = self.known.get_mut(&original(entry))
                    && known.entry.id == entry.id
                {
                    known.gone_ns.get_or_insert(now_ns);
                }
                Vec::new()
            }
            Change::Reading => {
                self.reading += 1;
                Vec::new()
            }
            Change::Read => {
                for known in self.known.values_mut() {
                    if known.reading != self.reading {
                        known.gone_ns.get_or_insert(now_ns);
                    }
                }
                Vec::new()
            }
        }
    }

    fn insert(&mut self, entry: &Entry) -> Vec<Conversation> {
        let original = original(entry);
        if self.known.len() >= self.limit && !self.known.contains_key(&original) {
            if self.refused == 0 {
                tracing::warn!(
                    limit = self.limit,
                    "conntrack has more entries than are kept: some translations are not known (--max-connections)"
                );
            }
            self.refused += 1;
            return Vec::new();
        }
        self.remove(&original);
        let aliases = aliases(entry);
        for alias in aliases.iter().filter(|alias| **alias != original) {
            self.aliases.insert(*alias, original);
        }
        self.known.insert(
            original,
            Known {
                entry: *entry,
                reading: self.reading,
                gone_ns: None,
            },
        );
        let mut all = vec![original];
        all.extend(aliases);
        all
    }

    fn remove(&mut self, original: &Conversation) {
        if let Some(old) = self.known.remove(original) {
            for alias in aliases(&old.entry) {
                if self.aliases.get(&alias) == Some(original) {
                    self.aliases.remove(&alias);
                }
            }
        }
    }

    /// Forgets what is gone for long enough.
    pub fn expire(&mut self, now_ns: u64) {
        let over: Vec<Conversation> = self
            .known
            .iter()
            .filter(|(_, known)| {
                known
                    .gone_ns
                    .is_some_and(|gone| now_ns.saturating_sub(gone) >= GRACE_NS)
            })
            .map(|(original, _)| *original)
            .collect();
        for original in &over {
            self.remove(original);
        }
    }
}

fn original(entry: &Entry) -> Conversation {
    Conversation::of_nat(&entry.nat.original, entry.nat.protocol)
}

/// The conversation after translation, and the one with the destination translated already and
/// the source not yet: a bridge sees it so, and whatever lies between PREROUTING and POSTROUTING.
fn aliases(entry: &Entry) -> [Conversation; 2] {
    let (original, reply) = (&entry.nat.original, &entry.nat.reply);
    let between = NatTuple {
        source: original.source,
        source_port: original.source_port,
        destination: reply.source,
        destination_port: reply.source_port,
    };
    [reply, &between].map(|tuple| Conversation::of_nat(tuple, entry.nat.protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodescope_ebpf::{mapped, packet::ordered};

    fn tuple(source: [u8; 4], sport: u16, destination: [u8; 4], dport: u16) -> NatTuple {
        NatTuple {
            source: mapped(source),
            destination: mapped(destination),
            source_port: sport,
            destination_port: dport,
        }
    }

    const POD: [u8; 4] = [10, 244, 0, 15];
    const NODE: [u8; 4] = [10, 224, 0, 4];
    const VIP: [u8; 4] = [10, 0, 0, 10];
    const BACKEND: [u8; 4] = [10, 224, 1, 2];

    /// To a service whose backend is chosen and which the node masquerades.
    fn entry(id: u32, port: u16) -> Entry {
        Entry {
            id,
            nat: NatRecord {
                original: tuple(POD, 4000, VIP, 80),
                reply: tuple(BACKEND, 8080, NODE, port),
                protocol: 6,
                ..NatRecord::default()
            },
        }
    }

    fn key(tuple: NatTuple) -> HopKey {
        let forward = ordered(
            &tuple.source,
            tuple.source_port,
            &tuple.destination,
            tuple.destination_port,
        );
        let there = (
            (tuple.source, tuple.source_port),
            (tuple.destination, tuple.destination_port),
        );
        let ((a, a_port), (b, b_port)) = if forward { there } else { (there.1, there.0) };
        HopKey {
            a,
            b,
            a_port,
            b_port,
            protocol: 6,
            ..HopKey::default()
        }
    }

    #[test]
    fn an_entry_is_found_by_each_of_its_tuples() {
        let mut entries = Entries::new(10);
        assert_eq!(entries.apply(&Change::New(entry(1, 1024)), 0).len(), 3);
        for seen in [
            tuple(POD, 4000, VIP, 80),
            tuple(POD, 4000, BACKEND, 8080),
            tuple(NODE, 1024, BACKEND, 8080),
        ] {
            assert!(entries.of(&key(seen)).is_some(), "{seen:?}");
        }
        assert!(entries.of(&key(tuple(POD, 4001, VIP, 80))).is_none());
    }

    #[test]
    fn the_newest_entry_of_a_tuple_counts_and_an_old_end_does_not_end_it() {
        let mut entries = Entries::new(10);
        entries.apply(&Change::New(entry(1, 1024)), 0);
        entries.apply(&Change::New(entry(2, 1025)), 0);
        entries.apply(&Change::Gone(entry(1, 1024)), 0);
        entries.expire(GRACE_NS);
        let seen = entries.of(&key(tuple(POD, 4000, VIP, 80)));
        assert_eq!(seen.map(|nat| nat.reply.destination_port), Some(1025));
        assert!(entries.of(&key(tuple(NODE, 1024, BACKEND, 8080))).is_none());
        entries.apply(&Change::Gone(entry(2, 1025)), 0);
        // Its last packets still find it.
        entries.expire(GRACE_NS - 1);
        assert!(entries.of(&key(tuple(NODE, 1025, BACKEND, 8080))).is_some());
        entries.expire(GRACE_NS);
        assert!(entries.known.is_empty() && entries.aliases.is_empty());
    }

    #[test]
    fn what_a_reading_does_not_find_is_gone() {
        let mut entries = Entries::new(10);
        entries.apply(&Change::New(entry(1, 1024)), 0);
        entries.apply(&Change::Reading, 0);
        entries.apply(&Change::Known(entry(1, 1024)), 0);
        entries.apply(&Change::Read, 0);
        entries.expire(GRACE_NS);
        assert_eq!(entries.known.len(), 1);
        entries.apply(&Change::Reading, 0);
        entries.apply(&Change::Read, 0);
        entries.expire(GRACE_NS);
        assert!(entries.known.is_empty());
    }

    #[test]
    fn there_is_a_limit() {
        let mut entries = Entries::new(1);
        entries.apply(&Change::New(entry(1, 1024)), 0);
        let mut other = entry(2, 1025);
        other.nat.original.source_port = 4001;
        assert!(entries.apply(&Change::New(other), 0).is_empty());
        assert_eq!((entries.known.len(), entries.refused), (1, 1));
    }
}
