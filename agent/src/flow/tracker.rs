//! Records of hooks, joined into connections.
//!
//! A connection is the initiator's original tuple. A hop belongs to it when the hop's own
//! conversation is that tuple, or the translated one, or when the hop's conntrack entry says so.
//! The kernel's records only grow; what a record gained since it was last seen goes to the
//! connection that it belongs to now, so a record that begins anew, moves to another connection
//! or is taken out of the kernel's table loses nothing and counts nothing twice.

use std::collections::HashMap;

use nodescope_ebpf::{HopKey, HopRecord, NatRecord, NatState};

use super::connection::{Connection, HopState, Translation};
use super::model::{Counts, Protocol, Tuple};
use super::tuple::{Conversation, translation};

/// What a hook's record gained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    /// At the interface's ingress.
    pub ingress: Counts,
    /// At its egress.
    pub egress: Counts,
}

/// How long connections are kept without traffic, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP that has not ended.
    pub tcp: u64,
    /// Everything else.
    pub other: u64,
    /// After the end of a TCP connection: for its last packets.
    pub linger: u64,
    /// A translated record is taken out of the kernel's table after so long without traffic:
    /// before conntrack forgets the entry (30 s for unanswered UDP) and lets another
    /// conversation have the tuple.
    pub translated: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            tcp: 600 * SECOND,
            other: 60 * SECOND,
            linger: SECOND,
            translated: 25 * SECOND,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    record: HopRecord,
    connection: u64,
    changed_ns: u64,
}

/// What the sweep found: records for the kernel to give up, and connections that are over.
#[derive(Debug, Default)]
pub struct Sweep {
    /// To be taken out of the kernel's table, and then passed to [`Tracker::taken`].
    pub retire: Vec<HopKey>,
    /// To be reported closed, and then passed to [`Tracker::remove`].
    pub closed: Vec<u64>,
}

/// All connections of the node.
#[derive(Debug, Default)]
pub struct Tracker {
    known: HashMap<HopKey, Known>,
    connections: HashMap<u64, Connection>,
    by_conversation: HashMap<Conversation, u64>,
    next: u64,
    /// Connections that have no record out yet, with the time of their first packet.
    unopened: Vec<u64>,
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

    /// Which connection a record belongs to: found, or made.
    fn place(
        &mut self,
        key: &HopKey,
        record: &HopRecord,
        nat: Option<&NatRecord>,
        current: Option<u64>,
        restarted: bool,
        now_ns: u64,
    ) -> u64 {
        let literal = Conversation::of_key(key);
        let found = |this: &Self, conversation: &Conversation| {
            this.by_conversation
                .get(conversation)
                .copied()
                .filter(|id| {
                    // A new SYN on a connection that has ended begins another one, unless this hop
                    // is only the next one to see that SYN.
                    !restarted
                        || current != Some(*id)
                        || this
                            .connections
                            .get(id)
                            .is_some_and(|c| c.ended_ns.is_none())
                })
        };
        match (NatState::of(record.nat), nat) {
            (NatState::Translated, Some(entry)) => {
                let (original, translated) = translation(entry);
                let own = Conversation::of_nat(&entry.original, entry.protocol);
                let far = Conversation::of_nat(&entry.reply, entry.protocol);
                // What was only a guess from one hop's own tuple turns out to be this connection.
                let guess = [far, literal]
                    .iter()
                    .filter_map(|conversation| found(self, conversation))
                    .find(|other| self.is_provisional(*other));
                let id = match (found(self, &own), guess) {
                    (Some(id), Some(other)) if id != other => {
                        self.merge(other, id);
                        id
                    }
                    (Some(id), _) | (None, Some(id)) => id,
                    (None, None) => self.make(original, true, record.first_ns, now_ns),
                };
                for conversation in [own, far, literal] {
                    self.alias(conversation, id);
                }
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.tuple = original;
                    connection.sure = true;
                    connection.translation = Some(Translation {
                        original,
                        translated,
                    });
                }
                id
            }
            (state @ (NatState::PlainFromA | NatState::PlainFromB), _) => {
                let tuple = literal.directed(state == NatState::PlainFromA);
                let id = found(self, &literal)
                    .unwrap_or_else(|| self.make(tuple, true, record.first_ns, now_ns));
                self.alias(literal, id);
                if let Some(connection) = self.connections.get_mut(&id)
                    && connection.translation.is_none()
                {
                    connection.tuple = tuple;
                    connection.sure = true;
                    connection.translation = Some(Translation {
                        original: tuple,
                        translated: tuple,
                    });
                }
                id
            }
            _ => {
                // Nothing new is known: a record that has a place keeps it.
                if let Some(id) = current.filter(|_| !restarted) {
                    return id;
                }
                let tuple = literal.directed(record.opener == 0);
                let id = found(self, &literal)
                    .unwrap_or_else(|| self.make(tuple, false, record.first_ns, now_ns));
                self.alias(literal, id);
                id
            }
        }
    }

    /// Whether nothing but the hop's own tuple is known of a connection.
    fn is_provisional(&self, id: u64) -> bool {
        self.connections
            .get(&id)
            .is_some_and(|c| c.translation.is_none() && !c.sure)
    }

    fn make(&mut self, tuple: Tuple, sure: bool, first_ns: u64, now_ns: u64) -> u64 {
        let id = self.next;
        self.next += 1;
        self.connections.insert(
            id,
            Connection {
                id,
                tuple,
                sure,
                translation: None,
                aliases: Vec::new(),
                hops: Vec::new(),
                first_ns,
                changed_ns: now_ns,
                ended_ns: None,
                opened: false,
                dirty: true,
                reported: Default::default(),
            },
        );
        self.unopened.push(id);
        id
    }

    fn alias(&mut self, conversation: Conversation, id: u64) {
        self.by_conversation.insert(conversation, id);
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.aliases.contains(&conversation)
        {
            connection.aliases.push(conversation);
        }
    }

    /// Gives all hops of one connection to another, which is the same in truth.
    fn merge(&mut self, from: u64, to: u64) {
        let Some(old) = self.connections.remove(&from) else {
            return;
        };
        for alias in &old.aliases {
            self.alias(*alias, to);
        }
        for hop in &old.hops {
            if let Some(known) = self.known.get_mut(&hop.key) {
                known.connection = to;
            }
        }
        if let Some(connection) = self.connections.get_mut(&to) {
            connection.first_ns = connection.first_ns.min(old.first_ns);
            // What was said of the one is said of the other.
            connection.opened |= old.opened;
            for hop in old.hops {
                add(connection, &hop.key, &hop.record, hop.ab, hop.ba);
            }
        }
    }

    /// A hop whose translation shows another connection than was thought: what it counted so far
    /// goes along when the old one was only a guess, and stays where it was when it was not.
    fn move_hop(&mut self, key: &HopKey, from: u64, to: u64) {
        if self.is_provisional(from) {
            let Some(old) = self.connections.get_mut(&from) else {
                return;
            };
            let Some(at) = old.hops.iter().position(|hop| hop.key == *key) else {
                return;
            };
            let hop = old.hops.swap_remove(at);
            let empty = old.hops.is_empty();
            if let Some(connection) = self.connections.get_mut(&to) {
                add(connection, &hop.key, &hop.record, hop.ab, hop.ba);
            }
            if empty {
                self.remove(from);
            }
        }
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

    /// What is idle or over by now.
    pub fn sweep(&self, now_ns: u64, timeouts: &Timeouts) -> Sweep {
        let mut sweep = Sweep::default();
        for connection in self.connections.values() {
            let idle = now_ns.saturating_sub(connection.changed_ns);
            let limit = if connection.tuple.protocol == Protocol::TCP {
                timeouts.tcp
            } else {
                timeouts.other
            };
            if connection.ended_ns.is_some() && idle >= timeouts.linger || idle >= limit {
                sweep.closed.push(connection.id);
                // A record that has gone over to another connection is in use.
                let own = connection.hops.iter().map(|hop| hop.key).filter(|key| {
                    self.known
                        .get(key)
                        .is_some_and(|known| known.connection == connection.id)
                });
                sweep.retire.extend(own);
            }
        }
        for (key, known) in &self.known {
            if NatState::of(known.record.nat) == NatState::Translated
                && key.protocol != Protocol::TCP.0
                && now_ns.saturating_sub(known.changed_ns) >= timeouts.translated
            {
                sweep.retire.push(*key);
            }
        }
        sweep.retire.sort_unstable_by_key(sort_key);
        sweep.retire.dedup();
        sweep
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

    /// An interface is gone: connections that passed it are over.
    pub fn end_at(&mut self, ifindex: u32, now_ns: u64) {
        for connection in self.connections.values_mut() {
            if connection.ended_ns.is_none()
                && connection.hops.iter().any(|hop| hop.key.ifindex == ifindex)
            {
                connection.ended_ns = Some(now_ns);
                connection.changed_ns = now_ns;
            }
        }
    }

    /// Whether some connection passed an interface.
    pub fn mentions(&self, ifindex: u32) -> bool {
        self.connections
            .values()
            .any(|connection| connection.hops.iter().any(|hop| hop.key.ifindex == ifindex))
    }
}

fn sort_key(key: &HopKey) -> (u32, [u32; 4], [u32; 4], u16, u16, u8, u8, u8) {
    (
        key.ifindex,
        key.a,
        key.b,
        key.a_port,
        key.b_port,
        key.protocol,
        key.kind,
        key.orientation,
    )
}

fn gained(now: nodescope_ebpf::Counter, before: nodescope_ebpf::Counter) -> Counts {
    Counts {
        packets: now.packets.saturating_sub(before.packets),
        bytes: now.bytes.saturating_sub(before.bytes),
    }
}

fn add(connection: &mut Connection, key: &HopKey, record: &HopRecord, ab: Counts, ba: Counts) {
    let hop = match connection.hops.iter_mut().find(|hop| hop.key == *key) {
        Some(hop) => hop,
        None => {
            connection.hops.push(HopState {
                key: *key,
                ab: Counts::default(),
                ba: Counts::default(),
                record: *record,
            });
            let last = connection.hops.len() - 1;
            &mut connection.hops[last]
        }
    };
    hop.ab += ab;
    hop.ba += ba;
    hop.record = *record;
}
