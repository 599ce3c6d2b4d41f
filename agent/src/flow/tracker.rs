//! Records of hooks, joined into connections.
//!
//! A connection is the initiator's original tuple. A hop belongs to it when the hop's own
//! conversation is that tuple, or the translated one, or when the hop's conntrack entry says so.
//! The kernel's records only grow; what a record gained since it was last seen goes to the
//! connection that it belongs to now, so a record that begins anew, moves to another connection
//! or is taken out of the kernel's table loses nothing and counts nothing twice.

use nodescope_ebpf::{HopKey, HopRecord, NatRecord, extra::Extra};

use super::anew::Anew;
use super::connection::{self, Connection};
use super::model::{Counts, Protocol};
use super::order::Order;
use super::store::{At, NONE, Store, coarse};
use super::told::Told;
use super::tuple::Conversation;

/// What a hook's record gained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    /// At the interface's ingress.
    pub ingress: Counts,
    /// At its egress.
    pub egress: Counts,
}

impl Gain {
    /// Of what a record gained from `a` to `b` and back.
    pub(super) fn of(key: &HopKey, ab: Counts, ba: Counts) -> Self {
        let (ingress, egress) = if key.orientation == 0 {
            (ab, ba)
        } else {
            (ba, ab)
        };
        Self { ingress, egress }
    }

    /// All that a record holds.
    pub fn whole(key: &HopKey, record: &HopRecord) -> Self {
        Self::of(key, record.ab.into(), record.ba.into())
    }
}

/// What is new about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// The record itself.
    pub record: bool,
    /// Its conntrack entry, where it says that there is one, is yet to be read.
    pub nat: bool,
    /// What few records have is yet to be read, or has changed.
    pub extra: bool,
}

/// What has been said of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether its first record is out.
    pub opened: bool,
    /// Whether something changed since the last record.
    pub dirty: bool,
}

/// All connections of the node.
#[derive(Debug, Default)]
pub struct Tracker {
    pub(super) store: Store,
    pub(super) next: u64,
    /// Connections that have no record out yet.
    pub(super) unopened: Vec<u64>,
    pub(super) told: Told,
    pub(super) order: Order,
    /// Connections and hops whose record went over from or to another connection.
    pub(super) parted: Vec<(u64, HopKey)>,
    /// Ports that were used anew while no agent looked.
    pub(super) anew: Anew,
}

impl Tracker {
    /// Ids begin at `first`: distinct from those of an earlier run.
    pub fn new(first: u64) -> Self {
        Self {
            next: first,
            ..Self::default()
        }
    }

    /// A connection by id, as it is now.
    pub fn get(&self, id: u64) -> Option<Connection> {
        Some(self.store.connection(self.store.by_id(id)?))
    }

    /// What has been said of a connection.
    pub fn standing(&self, id: u64) -> Option<Standing> {
        let node = &self.store.nodes[self.store.by_id(id)? as usize];
        Some(Standing {
            opened: node.opened,
            dirty: node.dirty,
        })
    }

    /// A record about a connection is out, with these totals.
    pub fn reported(&mut self, id: u64, totals: (Counts, Counts)) {
        if let Some(at) = self.store.by_id(id) {
            let node = &mut self.store.nodes[at as usize];
            node.reported = totals;
            node.opened = true;
            node.dirty = false;
        }
    }

    /// The connection that a conversation belongs to.
    pub fn find(&self, conversation: &Conversation) -> Option<u64> {
        let owner = self.store.owner(conversation)?;
        Some(self.store.nodes[owner as usize].id)
    }

    /// Connections that are known now.
    pub fn len(&self) -> usize {
        self.store.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.store.nodes.is_empty()
    }

    /// Hop records that are known now.
    pub fn hops(&self) -> usize {
        self.store.here
    }

    /// What is new about a record since it was last seen; `None` when nothing is.
    pub fn news(&self, key: &HopKey, record: &HopRecord) -> Option<News> {
        let Some(at) = self.store.hop(key) else {
            return Some(News {
                record: true,
                nat: true,
                extra: record.extra != 0,
            });
        };
        let hop = &self.store.hops[at as usize];
        hop.differs(record).then_some(News {
            record: false,
            nat: hop.nat != record.nat
                || hop.first_ns != record.first_ns
                || hop.incarnation != record.incarnation,
            extra: record.extra != 0 && record.extra != hop.extra,
        })
    }

    /// Takes in what few records have, after the record itself. Read after it, it may be newer,
    /// and never older.
    pub fn describe(&mut self, key: &HopKey, extra: Extra) {
        if let Some(at) = self.store.hop(key) {
            self.store.hops[at as usize].describe(extra);
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
        let earlier = self.split(key, record, nat, now_ns);
        if let Some((split, id)) = earlier.and_then(|split| Some((split, split.only?))) {
            return (split.gain, id);
        }
        let before = self.store.hop(key).map(|at| &self.store.hops[at as usize]);
        // Another first time: the kernel's entry was taken out and made anew.
        let base = before
            .filter(|hop| hop.first_ns == record.first_ns)
            .map(|hop| hop.record())
            .unwrap_or_default();
        let ab = Counts::from(record.ab) - base.ab.into();
        let ba = Counts::from(record.ba) - base.ba.into();
        let current = before.map(|hop| hop.connection);
        let restarted = before.is_some_and(|hop| hop.incarnation != record.incarnation);
        let flags = before.map(|hop| hop.flags());
        let was = current.map(|at| self.store.nodes[at as usize].id);
        if let Some(current) = current.filter(|_| restarted) {
            // The record began anew after an end, be it that nobody looked in between.
            let ended = &mut self.store.nodes[current as usize].ended_ns;
            if *ended == 0 {
                *ended = now_ns;
            }
        }
        let at = self.place(key, record, nat, current, restarted, now_ns);
        let is = self.store.nodes[at as usize].id;
        if let Some(was) = was.filter(|was| restarted || *was != is) {
            self.parted.extend([(is, *key), (was, *key)]);
        }
        // What a port carried before it was used anew stays with the connection of that time.
        if let Some(old) = current.filter(|_| !restarted)
            && old != at
        {
            self.move_hop(key, old, at);
        }
        let store = &mut self.store;
        let hop = store.hop_of(at, key);
        if let Some(old) = store.hop(key).filter(|old| *old != hop) {
            store.set_here(old, false);
        }
        store.set_here(hop, true);
        let state = &mut store.hops[hop as usize];
        state.add(record, [ab, ba]);
        state.changed = coarse(now_ns);
        let node = &mut store.nodes[at as usize];
        node.changed_ns = now_ns;
        node.dirty = true;
        node.first_ns = node.first_ns.min(record.first_ns);
        let id = node.id;
        let news = flags != Some((record.ab_flags, record.ba_flags)) || current != Some(at);
        if key.protocol == Protocol::TCP.0 && (news || nat.is_some()) {
            self.judge(at, now_ns);
        }
        let mut gain = Gain::of(key, ab, ba);
        if let Some(earlier) = earlier {
            gain.ingress += earlier.gain.ingress;
            gain.egress += earlier.gain.egress;
        }
        (gain, id)
    }

    /// Works out the state of a TCP connection.
    pub(super) fn judge(&mut self, at: At, now_ns: u64) {
        let store = &mut self.store;
        let flags = store
            .hops_of(at)
            .fold((0, 0), |(forward, reply), (_, hop)| {
                let (ab, ba) = hop.flags();
                if store.initiator_is_a(hop) {
                    (forward | ab, reply | ba)
                } else {
                    (forward | ba, reply | ab)
                }
            });
        let state = connection::state(flags.0, flags.1);
        let node = &mut store.nodes[at as usize];
        node.state = Some(state);
        if node.ended_ns == 0 && connection::is_over(state) {
            node.ended_ns = now_ns;
        }
    }

    /// Connections without a record out whose first packet was seen by `before_ns`; they are
    /// then taken as opened.
    pub fn ready_to_open(&mut self, before_ns: u64) -> Vec<u64> {
        let mut ready = Vec::new();
        let store = &self.store;
        self.unopened.retain(|id| {
            let Some(at) = store.by_id(*id) else {
                return false;
            };
            let node = &store.nodes[at as usize];
            let waits = !node.opened && node.first_ns > before_ns;
            if !node.opened && !waits {
                ready.push(*id);
            }
            waits
        });
        ready
    }

    /// Whether some connection waits for its first record.
    pub fn waits_to_open(&self) -> bool {
        !self.unopened.is_empty()
    }

    /// Connections with something new since their last record.
    pub fn dirty(&self) -> Vec<u64> {
        let nodes = self.store.nodes.iter();
        nodes
            .filter(|(_, node)| node.opened && node.dirty)
            .map(|(_, node)| node.id)
            .collect()
    }

    /// All connections.
    pub fn ids(&self) -> Vec<u64> {
        self.store.nodes.iter().map(|(_, node)| node.id).collect()
    }

    /// A record is out of the kernel's table: the next one under its key starts from zero.
    pub fn taken(&mut self, key: &HopKey) {
        if let Some(at) = self.store.hop(key) {
            self.store.set_here(at, false);
        }
    }

    /// Keys of an interface that is gone.
    pub fn keys_of(&self, ifindex: u32) -> Vec<HopKey> {
        let hops = self.store.hops.iter();
        hops.filter(|(_, hop)| hop.here && hop.ifindex == ifindex)
            .map(|(at, _)| self.store.key(at as At))
            .collect()
    }

    /// Hops of the connection that has a conversation.
    pub fn hops_of(&self, conversation: &Conversation) -> Vec<HopKey> {
        let owner = self.store.owner(conversation).into_iter();
        let hops = owner.flat_map(|at| self.store.hops_of(at));
        hops.map(|(at, _)| self.store.key(at)).collect()
    }

    /// Forgets a connection that has had its last record at `now_ns`; whether it was there.
    pub fn close(&mut self, id: u64, now_ns: u64) -> bool {
        let Some(at) = self.store.by_id(id) else {
            return false;
        };
        let (forward, reply) = self.store.nodes[at as usize].reported;
        let told = &mut self.told;
        self.store.disown(at, |store, conversation| {
            let counts = if store.is_from_a(at, conversation).unwrap_or(true) {
                [forward, reply]
            } else {
                [reply, forward]
            };
            told.add(conversation, now_ns, counts);
        });
        self.remove(at);
        true
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, at: At) {
        self.store.disown(at, |_, _| {});
        loop {
            let hop = self.store.nodes[at as usize].hops;
            if hop == NONE {
                break;
            }
            self.store.unlink(hop);
            self.store.drop_hop(hop);
        }
        self.store.remove_node(at);
    }

    /// Whether some connection passed an interface.
    pub fn mentions(&self, ifindex: u32) -> bool {
        let mut hops = self.store.hops.iter();
        hops.any(|(_, hop)| hop.ifindex == ifindex)
    }
}
