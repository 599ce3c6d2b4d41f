//! Where connections, their conversations and their hops are kept: each in one table, with the
//! numbers of places instead of pointers, and lists that run through the places themselves. What
//! few have is boxed. A node has many connections, and each byte here is there that often.

mod hop;
mod hops;
mod slim;

use hashbrown::HashTable;
use slab::Slab;

use super::connection::{Connection, HopState, Translation};
use super::model::{Counts, NatSource, TcpState, Tuple};
use super::tuple::Conversation;

pub(super) use hop::{Hop, coarse};

/// A place in one of the tables.
pub(super) type At = u32;

/// No place.
pub(super) const NONE: At = At::MAX;

/// A conversation under which hooks see a connection, or once did.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) conversation: Conversation,
    /// The connection that it leads to.
    pub(super) owner: At,
    /// The next one of the same owner.
    pub(super) next: At,
    /// The first hop of it that is in the kernel's table.
    here: At,
    /// Hops and tuples that say it, besides the owner.
    said: u32,
}

const _: () = assert!(size_of::<Option<Name>>() <= 56);

/// A conversation and which of its ends is the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Directed {
    pub(super) name: At,
    pub(super) from_a: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) first_ns: u64,
    pub(super) changed_ns: u64,
    /// 0 for one that has not ended.
    pub(super) ended_ns: u64,
    /// Totals of the last record.
    pub(super) reported: (Counts, Counts),
    pub(super) retransmits: Option<Box<(u64, u64)>>,
    pub(super) tuple: Directed,
    pub(super) far: Directed,
    pub(super) names: At,
    pub(super) hops: At,
    /// Who told of its translation.
    pub(super) source: Option<NatSource>,
    pub(super) state: Option<TcpState>,
    pub(super) sure: bool,
    pub(super) opened: bool,
    pub(super) dirty: bool,
}

const _: () = assert!(size_of::<Node>() <= 104);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) nodes: Slab<Node>,
    pub(super) hops: Slab<Hop>,
    pub(super) names: Slab<Name>,
    /// Places of nodes by id.
    by_id: HashTable<At>,
    /// Places of names by conversation.
    by_conversation: HashTable<At>,
    pub(super) hasher: ahash::RandomState,
    /// Hops that stand for a record of the kernel's table.
    pub(super) here: usize,
}

fn place(at: usize) -> At {
    At::try_from(at).unwrap_or(NONE)
}

impl Store {
    /// The name of a conversation.
    pub(super) fn name(&self, conversation: &Conversation) -> Option<At> {
        let hash = self.hasher.hash_one(conversation);
        let same = |at: &At| self.names[*at as usize].conversation == *conversation;
        self.by_conversation.find(hash, same).copied()
    }

    /// The same, made where there is none; it is to be owned or said.
    pub(super) fn name_or_new(&mut self, conversation: &Conversation) -> At {
        if let Some(found) = self.name(conversation) {
            return found;
        }
        let at = place(self.names.insert(Name {
            conversation: *conversation,
            owner: NONE,
            next: NONE,
            here: NONE,
            said: 0,
        }));
        let (names, hasher) = (&self.names, &self.hasher);
        let hash = hasher.hash_one(conversation);
        self.by_conversation.insert_unique(hash, at, |at| {
            hasher.hash_one(names[*at as usize].conversation)
        });
        at
    }

    /// The connection that a conversation leads to.
    pub(super) fn owner(&self, conversation: &Conversation) -> Option<At> {
        let owner = self.names[self.name(conversation)? as usize].owner;
        (owner != NONE).then_some(owner)
    }

    /// A connection by id.
    pub(super) fn by_id(&self, id: u64) -> Option<At> {
        let same = |at: &At| self.nodes[*at as usize].id == id;
        self.by_id.find(self.hasher.hash_one(id), same).copied()
    }

    /// Adds a connection without names and hops.
    pub(super) fn add_node(&mut self, node: Node) -> At {
        let id = node.id;
        self.said(node.tuple.name, true);
        self.said(node.far.name, true);
        let at = place(self.nodes.insert(node));
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let hash = hasher.hash_one(id);
        let rehash = |at: &At| hasher.hash_one(nodes[*at as usize].id);
        self.by_id.insert_unique(hash, at, rehash);
        at
    }

    /// Takes a connection out that has no names and hops any more.
    pub(super) fn remove_node(&mut self, at: At) -> Node {
        let node = self.nodes.remove(at as usize);
        self.said(node.tuple.name, false);
        self.said(node.far.name, false);
        let hash = self.hasher.hash_one(node.id);
        if let Ok(found) = self.by_id.find_entry(hash, |one| *one == at) {
            found.remove();
        }
        node
    }

    /// Says by which tuples a connection goes.
    pub(super) fn set_tuples(&mut self, at: At, tuple: Directed, far: Directed) {
        self.said(tuple.name, true);
        self.said(far.name, true);
        let node = &mut self.nodes[at as usize];
        let before = [node.tuple, node.far];
        (node.tuple, node.far) = (tuple, far);
        for one in before {
            self.said(one.name, false);
        }
    }

    /// Counts who says a name; one that nobody says or owns is gone.
    fn said(&mut self, at: At, more: bool) {
        let name = &mut self.names[at as usize];
        if more {
            name.said += 1;
        } else {
            name.said -= 1;
            self.drop_unused(at);
        }
    }

    fn drop_unused(&mut self, at: At) {
        let name = &self.names[at as usize];
        if name.said == 0 && name.owner == NONE {
            let hash = self.hasher.hash_one(name.conversation);
            if let Ok(found) = self.by_conversation.find_entry(hash, |one| *one == at) {
                found.remove();
            }
            self.names.remove(at as usize);
        }
    }

    /// Gives a conversation to a connection; whose it was has it no more.
    pub(super) fn own(&mut self, conversation: &Conversation, owner: At) {
        let at = self.name_or_new(conversation);
        if self.names[at as usize].owner == owner {
            return;
        }
        self.leave(at);
        let first = std::mem::replace(&mut self.nodes[owner as usize].names, at);
        let name = &mut self.names[at as usize];
        (name.owner, name.next) = (owner, first);
    }

    /// Takes a name from its owner.
    fn leave(&mut self, at: At) {
        let name = &mut self.names[at as usize];
        let owner = std::mem::replace(&mut name.owner, NONE);
        let after = std::mem::replace(&mut name.next, NONE);
        if owner == NONE {
            return;
        }
        let mut one = self.nodes[owner as usize].names;
        if one == at {
            self.nodes[owner as usize].names = after;
            return;
        }
        while one != NONE {
            let next = self.names[one as usize].next;
            if next == at {
                self.names[one as usize].next = after;
                return;
            }
            one = next;
        }
    }

    /// Takes all names from a connection and gives them, for what is to be done with each.
    pub(super) fn disown(&mut self, owner: At, mut with: impl FnMut(&Self, &Conversation)) {
        loop {
            let at = self.nodes[owner as usize].names;
            if at == NONE {
                return;
            }
            with(self, &self.names[at as usize].conversation);
            self.leave(at);
            self.drop_unused(at);
        }
    }

    /// A hop as records are made from.
    pub(super) fn hop_state(&self, at: At) -> HopState {
        let hop = &self.hops[at as usize];
        let [ab, ba] = hop.counts();
        HopState {
            key: self.key(at),
            ab,
            ba,
            record: hop.record(),
            extra: hop.rare.as_ref().and_then(|rare| rare.extra).map(Box::new),
            from_a: self.initiator_is_a(hop),
        }
    }

    /// Whether the initiator is the `a` of a hop's key.
    pub(super) fn initiator_is_a(&self, hop: &Hop) -> bool {
        let conversation = &self.names[hop.of as usize].conversation;
        self.is_from_a(hop.connection, conversation)
            .unwrap_or(hop.opener == 0)
    }

    /// Whether the initiator of a connection is the `a` of a conversation; `None` where its tuples
    /// do not say.
    pub(super) fn is_from_a(&self, connection: At, conversation: &Conversation) -> Option<bool> {
        let node = &self.nodes[connection as usize];
        let [a, b] = conversation.ends();
        let tuples = [node.tuple, node.far].map(|one| {
            let [a, b] = self.names[one.name as usize].conversation.ends();
            if one.from_a { [a, b] } else { [b, a] }
        });
        // Whole tuples first: an end that both sides of a hairpin share says nothing.
        for tuple in tuples {
            if tuple == [a, b] {
                return Some(true);
            }
            if tuple == [b, a] {
                return Some(false);
            }
        }
        // In between two translations: one end is already, or still, one of the known ones.
        let some = |a, b| tuples.iter().any(|tuple| tuple[0] == a || tuple[1] == b);
        if some(a, b) {
            Some(true)
        } else if some(b, a) {
            Some(false)
        } else {
            None
        }
    }

    /// A tuple with its direction.
    pub(super) fn tuple(&self, one: Directed) -> Tuple {
        self.names[one.name as usize]
            .conversation
            .directed(one.from_a)
    }

    /// A connection as records are made from.
    pub(super) fn connection(&self, at: At) -> Connection {
        let node = &self.nodes[at as usize];
        let tuple = self.tuple(node.tuple);
        let translation = node.source.map(|source| Translation {
            original: tuple,
            translated: self.tuple(node.far),
            source,
        });
        let mut hops: Vec<_> = self
            .hops_of(at)
            .map(|(hop, _)| self.hop_state(hop))
            .collect();
        // In the order in which they were found.
        hops.reverse();
        Connection {
            id: node.id,
            tuple,
            translation,
            hops,
            first_ns: node.first_ns,
            ended: node.ended_ns != 0,
            reported: node.reported,
            retransmits: node.retransmits.as_deref().copied().unwrap_or_default(),
        }
    }
}
