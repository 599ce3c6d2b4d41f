//! Records of hooks, joined into connections.
//!
//! A connection is the initiator's original tuple. A hop belongs to it when the hop's own
//! conversation is that tuple, or the translated one, or when the hop's conntrack entry says so.
//! The kernel's records only grow; what a record gained since it was last seen goes to the
//! connection that it belongs to now, so a record that begins anew, moves to another connection
//! or is taken out of the kernel's table loses nothing and counts nothing twice.

use std::collections::HashMap;

use nodescope_ebpf::{HopKey, HopRecord, NatRecord, extra::Extra};

use super::connection::{Connection, HopState};
use super::model::Counts;
use super::tuple::Conversation;

/// What a hook's record gained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    /// At the interface's ingress.
    pub ingress: Counts,
    /// At its egress.
    pub egress: Counts,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) record: HopRecord,
    pub(super) connection: u64,
    pub(super) changed_ns: u64,
}

/// All connections of the node.
#[derive(Debug, Default)]
pub struct Tracker {
    pub(super) known: HashMap<HopKey, Known, ahash::RandomState>,
    pub(super) connections: HashMap<u64, Connection, ahash::RandomState>,
    pub(super) by_conversation: HashMap<Conversation, u64, ahash::RandomState>,
    pub(super) next: u64,
    /// Connections that have no record out yet.
    pub(super) unopened: Vec<u64>,
}

impl Tracker {
    /// Ids begin at `first`: distinct from those of an earlier run.
    pub fn new(first: u64) -> Self {
        Self {
            next: first,
            ..Self::default()
        }
    }

    /// A connection by id.
    pub fn get(&self, id: u64) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// The same, to change what was reported of it.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// The connection that a conversation belongs to.
    pub fn find(&self, conversation: &Conversation) -> Option<u64> {
        self.by_conversation.get(conversation).copied()
    }

    /// Connections that are known now.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Hop records that are known now.
    pub fn hops(&self) -> usize {
        self.known.len()
    }

    /// Whether a record is new or says something else than when it was last seen.
    pub fn is_news(&self, key: &HopKey, record: &HopRecord) -> bool {
        self.known
            .get(key)
            .is_none_or(|known| known.record != *record)
    }

    /// Whether a translated record's conntrack entry is yet to be read.
    pub fn needs_nat(&self, key: &HopKey, record: &HopRecord) -> bool {
        self.known.get(key).is_none_or(|known| {
            known.record.nat != record.nat
                || known.record.first_ns != record.first_ns
                || known.record.incarnation != record.incarnation
        })
    }

    /// Whether what few records have is yet to be read, or has changed.
    pub fn needs_extra(&self, key: &HopKey, record: &HopRecord) -> bool {
        record.extra != 0
            && self
                .known
                .get(key)
                .is_none_or(|known| known.record.extra != record.extra)
    }

    /// Takes in what few records have, after the record itself. Read after it, it may be newer,
    /// and never older.
    pub fn describe(&mut self, key: &HopKey, extra: Extra) {
        let connection = self
            .known
            .get(key)
            .and_then(|known| self.connections.get_mut(&known.connection));
        if let Some(connection) = connection {
            describe(connection, key, Some(Box::new(extra)));
        }
    }

    /// Takes in a record as it is now. `nat` is its conntrack entry where the record says that
    /// there is one. Gives what the hooks gained, and the connection.
    pub fn observe(
        &mut self,
        key: &HopKey,
        record: &HopRecord,
        nat: Option<&NatRecord>,
        now_ns: u64,
    ) -> (Gain, u64) {
        let before = self.known.get(key).copied();
        // Another first time: the kernel's entry was taken out and made anew.
        let base = before
            .filter(|known| known.record.first_ns == record.first_ns)
            .map(|known| known.record)
            .unwrap_or_default();
        let (ab, ba) = (gained(record.ab, base.ab), gained(record.ba, base.ba));
        let current = before.map(|known| known.connection);
        let restarted = before.is_some_and(|known| known.record.incarnation != record.incarnation);
        let id = self.place(key, record, nat, current, restarted, now_ns);
        // What a port carried before it was used anew stays with the connection of that time.
        if let Some(old) = current.filter(|_| !restarted)
            && old != id
        {
            self.move_hop(key, old, id);
        }
        self.known.insert(
            *key,
            Known {
                record: *record,
                connection: id,
                changed_ns: now_ns,
            },
        );
        if let Some(connection) = self.connections.get_mut(&id) {
            add(connection, key, record, ab, ba);
            connection.changed_ns = now_ns;
            connection.dirty = true;
            connection.first_ns = connection.first_ns.min(record.first_ns);
            if connection.ended_ns.is_none() && connection.over() {
                connection.ended_ns = Some(now_ns);
            }
        }
        let (ingress, egress) = if key.orientation == 0 {
            (ab, ba)
        } else {
            (ba, ab)
        };
        (Gain { ingress, egress }, id)
    }

    /// Connections without a record out whose first packet was seen by `before_ns`; they are
    /// then taken as opened.
    pub fn ready_to_open(&mut self, before_ns: u64) -> Vec<u64> {
        let mut ready = Vec::new();
        let connections = &self.connections;
        self.unopened.retain(|id| match connections.get(id) {
            None => false,
            Some(connection) if connection.opened => false,
            Some(connection) if connection.first_ns <= before_ns => {
                ready.push(*id);
                false
            }
            Some(_) => true,
        });
        ready
    }

    /// Whether some connection waits for its first record.
    pub fn waits_to_open(&self) -> bool {
        !self.unopened.is_empty()
    }

    /// Connections with something new since their last record.
    pub fn dirty(&self) -> Vec<u64> {
        self.connections
            .values()
            .filter(|connection| connection.opened && connection.dirty)
            .map(|connection| connection.id)
            .collect()
    }

    /// All connections.
    pub fn ids(&self) -> Vec<u64> {
        self.connections.keys().copied().collect()
    }

    /// A record is out of the kernel's table: the next one under its key starts from zero.
    pub fn taken(&mut self, key: &HopKey) {
        self.known.remove(key);
    }

    /// Keys of an interface that is gone.
    pub fn keys_of(&self, ifindex: u32) -> Vec<HopKey> {
        self.known
            .keys()
            .filter(|key| key.ifindex == ifindex)
            .copied()
            .collect()
    }

    /// Hops of the connection that has a conversation.
    pub fn hops_of(&self, conversation: &Conversation) -> Vec<HopKey> {
        self.by_conversation
            .get(conversation)
            .and_then(|id| self.connections.get(id))
            .map(|connection| connection.hops.iter().map(|hop| hop.key).collect())
            .unwrap_or_default()
    }

    /// Forgets a connection.
    pub fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        for alias in &connection.aliases {
            if self.by_conversation.get(alias) == Some(&id) {
                self.by_conversation.remove(alias);
            }
        }
        Some(connection)
    }

    /// Whether some connection passed an interface.
    pub fn mentions(&self, ifindex: u32) -> bool {
        self.connections
            .values()
            .any(|connection| connection.hops.iter().any(|hop| hop.key.ifindex == ifindex))
    }
}

fn gained(now: nodescope_ebpf::Counter, before: nodescope_ebpf::Counter) -> Counts {
    Counts {
        packets: now.packets.saturating_sub(before.packets),
        bytes: now.bytes.saturating_sub(before.bytes),
    }
}

pub(super) fn add(
    connection: &mut Connection,
    key: &HopKey,
    record: &HopRecord,
    ab: Counts,
    ba: Counts,
) {
    let hop = match connection.hops.iter_mut().find(|hop| hop.key == *key) {
        Some(hop) => hop,
        None => {
            connection.hops.push(HopState {
                key: *key,
                ab: Counts::default(),
                ba: Counts::default(),
                record: *record,
                extra: None,
            });
            let last = connection.hops.len() - 1;
            &mut connection.hops[last]
        }
    };
    hop.ab += ab;
    hop.ba += ba;
    hop.record = *record;
}

/// Says of a hop what few have; what was known stays where there is nothing new.
pub(super) fn describe(connection: &mut Connection, key: &HopKey, extra: Option<Box<Extra>>) {
    let hop = connection.hops.iter_mut().find(|hop| hop.key == *key);
    if let Some(hop) = hop
        && extra.is_some()
    {
        hop.extra = extra;
    }
}
