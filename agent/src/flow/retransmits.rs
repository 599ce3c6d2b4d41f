//! Segments that the node's sockets sent again, joined to connections by the sockets' tuples.

use std::collections::HashMap;

use nodescope_ebpf::NatTuple;

use super::model::Protocol;
use super::tracker::Tracker;
use super::tuple::{Conversation, tuple};

/// What is known of the sockets that sent something again.
#[derive(Debug, Default)]
pub struct Retransmits(HashMap<NatTuple, Known>);

#[derive(Debug, Default)]
struct Known {
    segments: u64,
    /// Looks in a row that found no connection for it.
    missed: u8,
}

/// A socket whose connection no hook sees (a loopback's, or one that is over) is given up after
/// so many looks: the first of them may come before the connection's own records.
const LOOKS: u8 = 3;

impl Retransmits {
    /// Takes in all counters as they are now, since the start. Gives the tuples whose counter may
    /// be taken out of the kernel's table; what it then held goes to [`Retransmits::taken`].
    pub fn observe(&mut self, now: &[(NatTuple, u64)], tracker: &mut Tracker) -> Vec<NatTuple> {
        let mut over = Vec::new();
        for (socket, segments) in now {
            let known = self.0.entry(*socket).or_default();
            let more = segments.saturating_sub(known.segments);
            if tracker.retransmitted(socket, more) {
                known.segments = *segments;
                known.missed = 0;
                continue;
            }
            known.missed += 1;
            if known.missed >= LOOKS {
                over.push(*socket);
            }
        }
        over
    }

    /// A counter is out of the kernel's table: the next one of its tuple starts from zero.
    pub fn taken(&mut self, socket: &NatTuple, segments: u64, tracker: &mut Tracker) {
        let known = self.0.remove(socket).unwrap_or_default();
        tracker.retransmitted(socket, segments.saturating_sub(known.segments));
    }
}

impl Tracker {
    /// Adds what a socket sent again to its connection; false when there is none.
    fn retransmitted(&mut self, socket: &NatTuple, more: u64) -> bool {
        let conversation = Conversation::of_nat(socket, Protocol::TCP.0);
        let Some(at) = self.store.owner(&conversation) else {
            return false;
        };
        if more > 0 {
            let node = &self.store.nodes[at as usize];
            let own = tuple(socket, Protocol::TCP.0);
            let forward = [node.tuple, node.far].map(|one| self.store.tuple(one));
            let node = &mut self.store.nodes[at as usize];
            let sum = node.retransmits.get_or_insert_default();
            if forward.contains(&own) {
                sum.0 += more;
            } else {
                sum.1 += more;
            }
            node.dirty = true;
        }
        true
    }
}
