//! The lists of hops: of a connection, and of those that stand for records of the kernel's table.

use nodescope_ebpf::HopKey;

use super::{At, Conversation, Hop, NONE, Store, place};

impl Store {
    /// The hop that stands for a record of the kernel's table.
    pub(in crate::flow) fn hop(&self, key: &HopKey) -> Option<At> {
        let name = &self.names[self.name(&Conversation::of_key(key))? as usize];
        let mut at = name.here;
        while at != NONE {
            let hop = &self.hops[at as usize];
            if hop.ifindex == key.ifindex && hop.orientation == key.orientation {
                return Some(at);
            }
            at = hop.next_here;
        }
        None
    }

    /// The hops of a connection.
    pub(in crate::flow) fn hops_of(&self, connection: At) -> impl Iterator<Item = (At, &Hop)> {
        let mut at = self.nodes[connection as usize].hops;
        std::iter::from_fn(move || {
            let hop = self.hops.get(at as usize)?;
            let this = std::mem::replace(&mut at, hop.next);
            Some((this, hop))
        })
    }

    /// The hop of a connection that has this key, or a new one.
    pub(in crate::flow) fn hop_of(&mut self, connection: At, key: &HopKey) -> At {
        let of = self.name_or_new(&Conversation::of_key(key));
        let found = self.hops_of(connection).find(|(_, hop)| {
            hop.of == of && hop.ifindex == key.ifindex && hop.orientation == key.orientation
        });
        if let Some((at, _)) = found {
            return at;
        }
        self.said(of, true);
        let next = self.nodes[connection as usize].hops;
        let at = place(self.hops.insert(Hop::new(of, connection, next, key)));
        self.nodes[connection as usize].hops = at;
        at
    }

    /// Says whether a hop stands for a record of the kernel's table.
    pub(in crate::flow) fn set_here(&mut self, at: At, here: bool) {
        let hop = &mut self.hops[at as usize];
        if std::mem::replace(&mut hop.here, here) == here {
            return;
        }
        let first = &mut self.names[hop.of as usize].here;
        if here {
            hop.next_here = std::mem::replace(first, at);
            self.here += 1;
            return;
        }
        self.here -= 1;
        let after = std::mem::replace(&mut hop.next_here, NONE);
        if *first == at {
            *first = after;
            return;
        }
        let mut one = *first;
        while one != NONE {
            let next = self.hops[one as usize].next_here;
            if next == at {
                self.hops[one as usize].next_here = after;
                return;
            }
            one = next;
        }
    }

    /// Takes a hop out of its connection, which keeps the others; gives the hop.
    pub(in crate::flow) fn unlink(&mut self, at: At) {
        let (connection, after) = {
            let hop = &self.hops[at as usize];
            (hop.connection, hop.next)
        };
        let mut one = self.nodes[connection as usize].hops;
        if one == at {
            self.nodes[connection as usize].hops = after;
        }
        while one != NONE && one != at {
            let next = self.hops[one as usize].next;
            if next == at {
                self.hops[one as usize].next = after;
            }
            one = next;
        }
        self.hops[at as usize].next = NONE;
    }

    /// Removes a hop that is in no connection.
    pub(in crate::flow) fn drop_hop(&mut self, at: At) {
        self.set_here(at, false);
        let hop = self.hops.remove(at as usize);
        self.said(hop.of, false);
    }

    /// Gives a hop that is in no connection to one: joined with the hop there of the same key.
    pub(in crate::flow) fn adopt(&mut self, connection: At, at: At) {
        let key = self.key(at);
        let hop = &self.hops[at as usize];
        let twin = self.hops_of(connection).find(|(_, one)| {
            one.of == hop.of && one.ifindex == hop.ifindex && one.orientation == hop.orientation
        });
        let Some((twin, _)) = twin else {
            let first = std::mem::replace(&mut self.nodes[connection as usize].hops, at);
            let hop = &mut self.hops[at as usize];
            (hop.connection, hop.next) = (connection, first);
            return;
        };
        let (counts, record) = (hop.counts(), hop.record());
        let (here, changed) = (hop.here, hop.changed);
        let extra = self.hops[at as usize].take_extra();
        self.drop_hop(at);
        let other = &mut self.hops[twin as usize];
        if here || !other.here {
            other.add(&record, counts);
            other.changed = changed;
        } else {
            let own = other.record();
            other.add(&own, counts);
        }
        if let Some(extra) = extra {
            other.describe(extra);
        }
        if here {
            if let Some(stale) = self.hop(&key) {
                self.set_here(stale, false);
            }
            self.set_here(twin, true);
        }
    }

    /// A hop's key.
    pub(in crate::flow) fn key(&self, at: At) -> HopKey {
        let hop = &self.hops[at as usize];
        let conversation = &self.names[hop.of as usize].conversation;
        conversation.key(hop.ifindex, hop.orientation)
    }
}
