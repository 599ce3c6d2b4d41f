//! Which connection a record belongs to, and what to do when that turns out otherwise.

use nodescope_ebpf::{HopKey, HopRecord, NatRecord, NatState};

use super::connection::{Connection, Translation};
use super::model::{NatSource, Tuple};
use super::tracker::{Tracker, add, describe};
use super::tuple::{Conversation, translation};

impl Tracker {
    /// Which connection a record belongs to: found, or made.
    pub(super) fn place(
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
        // The kernel side says nothing of translations where only netlink does.
        let (state, source) = match (NatState::of(record.nat), nat) {
            (state @ (NatState::Unknown | NatState::Untracked), Some(entry)) => {
                (state_of(key, entry).unwrap_or(state), NatSource::Netlink)
            }
            (state, _) => (state, NatSource::Skb),
        };
        match (state, nat) {
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
                        source,
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
                        source,
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
                retransmits: (0, 0),
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
            connection.retransmits.0 += old.retransmits.0;
            connection.retransmits.1 += old.retransmits.1;
            for hop in old.hops {
                add(connection, &hop.key, &hop.record, hop.ab, hop.ba);
                describe(connection, &hop.key, hop.extra);
            }
        }
    }

    /// A hop whose translation shows another connection than was thought: what it counted so far
    /// goes along when the old one was only a guess, and stays where it was when it was not.
    pub(super) fn move_hop(&mut self, key: &HopKey, from: u64, to: u64) {
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
                describe(connection, &hop.key, hop.extra);
            }
            if empty {
                self.remove(from);
            }
        }
    }
}

/// What the kernel side would say of a hop whose conversation has this entry; `None` where the
/// entry is none of its own.
fn state_of(key: &HopKey, entry: &NatRecord) -> Option<NatState> {
    let own = Conversation::of_nat(&entry.original, entry.protocol);
    if own != Conversation::of_nat(&entry.reply, entry.protocol) {
        return Some(NatState::Translated);
    }
    let source = (entry.original.source, entry.original.source_port);
    (own == Conversation::of_key(key)).then(|| {
        if source == (key.a, key.a_port) {
            NatState::PlainFromA
        } else {
            NatState::PlainFromB
        }
    })
}
