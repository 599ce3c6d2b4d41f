//! Which connection a record belongs to, and what to do when that turns out otherwise.

use nodescope_ebpf::{HopKey, HopRecord, NatRecord, NatState, packet::tcp_flag};

use super::model::NatSource;
use super::store::{At, Directed, NONE, Node};
use super::tracker::Tracker;
use super::tuple::Conversation;

impl Tracker {
    /// Which connection a record belongs to: found, or made.
    pub(super) fn place(
        &mut self,
        key: &HopKey,
        record: &HopRecord,
        nat: Option<&NatRecord>,
        current: Option<At>,
        restarted: bool,
        now_ns: u64,
    ) -> At {
        let literal = Conversation::of_key(key);
        // A record made anew by a SYN, after the one before it was taken out.
        let begun = (record.ab_flags | record.ba_flags) & tcp_flag::SYN != 0;
        let found = |this: &Self, conversation: &Conversation| {
            this.store.owner(conversation).filter(|at| {
                // A new SYN on a connection that has ended begins another one, unless this hop is
                // only the next one to see that SYN.
                let ended = this.store.nodes[*at as usize].ended_ns;
                let again = restarted && current == Some(*at) || begun && record.first_ns > ended;
                !again || ended == 0
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
                let own = Conversation::of_nat(&entry.original, entry.protocol);
                let far = Conversation::of_nat(&entry.reply, entry.protocol);
                let from_a = own.ends()[0] == (entry.original.source, entry.original.source_port);
                let to = (entry.reply.destination, entry.reply.destination_port);
                let far_from_a = far.ends()[0] == to;
                // What was only a guess from one hop's own tuple turns out to be this connection.
                let guess = [far, literal]
                    .iter()
                    .filter_map(|conversation| found(self, conversation))
                    .find(|other| self.is_provisional(*other));
                let at = match (found(self, &own), guess) {
                    (Some(at), Some(other)) if at != other => {
                        self.merge(other, at);
                        at
                    }
                    (Some(at), _) | (None, Some(at)) => at,
                    (None, None) => self.make(&own, from_a, true, record.first_ns, now_ns),
                };
                for conversation in [own, far, literal] {
                    self.store.own(&conversation, at);
                }
                self.translated(at, (&own, from_a), (&far, far_from_a), source);
                at
            }
            (state @ (NatState::PlainFromA | NatState::PlainFromB), _) => {
                let from_a = state == NatState::PlainFromA;
                let at = found(self, &literal)
                    .unwrap_or_else(|| self.make(&literal, from_a, true, record.first_ns, now_ns));
                self.store.own(&literal, at);
                if self.store.nodes[at as usize].source.is_none() {
                    self.translated(at, (&literal, from_a), (&literal, from_a), source);
                }
                at
            }
            _ => {
                // Nothing new is known: a record that has a place keeps it.
                if let Some(at) = current.filter(|_| !restarted) {
                    return at;
                }
                let from_a = record.opener == 0;
                let at = found(self, &literal)
                    .unwrap_or_else(|| self.make(&literal, from_a, false, record.first_ns, now_ns));
                self.store.own(&literal, at);
                at
            }
        }
    }

    /// Conntrack's entry of a connection is known.
    fn translated(
        &mut self,
        at: At,
        (own, from_a): (&Conversation, bool),
        (far, far_from_a): (&Conversation, bool),
        source: NatSource,
    ) {
        let name = self.store.name_or_new(own);
        let tuple = Directed { name, from_a };
        let far = Directed {
            name: self.store.name_or_new(far),
            from_a: far_from_a,
        };
        self.store.set_tuples(at, tuple, far);
        let node = &mut self.store.nodes[at as usize];
        node.sure = true;
        node.source = Some(source);
    }

    /// Whether nothing but the hop's own tuple is known of a connection.
    fn is_provisional(&self, at: At) -> bool {
        let node = self.store.nodes.get(at as usize);
        node.is_some_and(|node| node.source.is_none() && !node.sure)
    }

    pub(super) fn make(
        &mut self,
        own: &Conversation,
        from_a: bool,
        sure: bool,
        first_ns: u64,
        now_ns: u64,
    ) -> At {
        let id = self.next;
        self.next += 1;
        let name = self.store.name_or_new(own);
        let tuple = Directed { name, from_a };
        self.unopened.push(id);
        self.store.add_node(Node {
            id,
            first_ns,
            changed_ns: now_ns,
            ended_ns: 0,
            reported: Default::default(),
            retransmits: None,
            tuple,
            far: tuple,
            names: NONE,
            hops: NONE,
            source: None,
            state: None,
            sure,
            opened: false,
            dirty: true,
        })
    }

    /// Gives all hops of one connection to another, which is the same in truth.
    fn merge(&mut self, from: At, to: At) {
        let mut names = Vec::new();
        self.store.disown(from, |_, name| names.push(*name));
        for name in &names {
            self.store.own(name, to);
        }
        loop {
            let hop = self.store.nodes[from as usize].hops;
            if hop == NONE {
                break;
            }
            self.store.unlink(hop);
            self.store.adopt(to, hop);
        }
        let old = self.store.remove_node(from);
        let node = &mut self.store.nodes[to as usize];
        node.first_ns = node.first_ns.min(old.first_ns);
        // What was said of the one is said of the other.
        node.opened |= old.opened;
        if let Some(more) = old.retransmits {
            let sum = node.retransmits.get_or_insert_default();
            sum.0 += more.0;
            sum.1 += more.1;
        }
    }

    /// A hop whose translation shows another connection than was thought: what it counted so far
    /// goes along when the old one was only a guess, and stays where it was when it was not.
    pub(super) fn move_hop(&mut self, key: &HopKey, from: At, to: At) {
        if !self.is_provisional(from) {
            return;
        }
        let Some(hop) = self.store.hop(key) else {
            return;
        };
        if self.store.hops[hop as usize].connection != from {
            return;
        }
        self.store.unlink(hop);
        self.store.adopt(to, hop);
        if self.store.nodes[from as usize].hops == NONE {
            self.remove(from);
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
