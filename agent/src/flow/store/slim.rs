//! Memory that a flood took is given back: what is left moves together.

use std::collections::HashMap;

use hashbrown::HashTable;
use slab::Slab;

use super::{At, Store, place};

/// Tables that are smaller are not worth the work.
const SMALL: usize = 8192;

/// Where places went.
struct Moved(HashMap<At, At, ahash::RandomState>);

impl Moved {
    /// Moves what is in a table to its beginning, and shrinks it.
    fn together<T>(table: &mut Slab<T>) -> Self {
        let mut moved = HashMap::default();
        table.compact(|_, from, to| {
            moved.insert(place(from), place(to));
            true
        });
        Self(moved)
    }

    fn follow(&self, at: &mut At) {
        if let Some(to) = self.0.get(at) {
            *at = *to;
        }
    }
}

impl Store {
    /// Gives back memory, where there is much more than is used.
    pub(in crate::flow) fn slim(&mut self) {
        let much = |used: usize, room: usize| room > SMALL && used < room / 4;
        if much(self.nodes.len(), self.nodes.capacity())
            || much(self.hops.len(), self.hops.capacity())
        {
            self.compact();
        }
    }

    /// Moves everything together.
    pub(in crate::flow) fn compact(&mut self) {
        let nodes = Moved::together(&mut self.nodes);
        let hops = Moved::together(&mut self.hops);
        let names = Moved::together(&mut self.names);
        for (_, hop) in &mut self.hops {
            names.follow(&mut hop.of);
            nodes.follow(&mut hop.connection);
            hops.follow(&mut hop.next);
            hops.follow(&mut hop.next_here);
        }
        for (_, name) in &mut self.names {
            nodes.follow(&mut name.owner);
            names.follow(&mut name.next);
            hops.follow(&mut name.here);
        }
        for (_, node) in &mut self.nodes {
            names.follow(&mut node.tuple.name);
            names.follow(&mut node.far.name);
            names.follow(&mut node.names);
            hops.follow(&mut node.hops);
        }
        self.by_id = HashTable::with_capacity(self.nodes.len());
        for (at, node) in &self.nodes {
            let hash = |id| self.hasher.hash_one::<u64>(id);
            self.by_id.insert_unique(hash(node.id), place(at), |at| {
                hash(self.nodes[*at as usize].id)
            });
        }
        self.by_conversation = HashTable::with_capacity(self.names.len());
        for (at, name) in &self.names {
            let hash = |at: &At| self.hasher.hash_one(self.names[*at as usize].conversation);
            let own = self.hasher.hash_one(name.conversation);
            self.by_conversation.insert_unique(own, place(at), hash);
        }
    }
}
