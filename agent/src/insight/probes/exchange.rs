//! Heads of payload, put together again: the first bytes that each end of a connection said.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::datapath::Head;
use crate::flow::{Conversation, Tuple};

/// Conversations whose bytes are kept at most: 4 MiB in the worst case.
const MOST: usize = 1024;

/// Kept for so long after the last byte, in nanoseconds: longer than a connection lingers.
const AGE: u64 = 60_000_000_000;

/// Bytes of one direction that are kept: as many heads as the kernel side sends.
pub const STREAM: usize = nodescope_ebpf::HEAD * nodescope_ebpf::wanted::MOST as usize;

/// What one end said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The bytes from the first on, without a gap.
    pub bytes: Vec<u8>,
    /// Whether there was more than `bytes`.
    pub truncated: bool,
    /// `CLOCK_MONOTONIC` nanoseconds of the first and of the newest packet; 0 for none.
    pub first_ns: u64,
    /// See `first_ns`.
    pub last_ns: u64,
    /// Sequence number of the first byte.
    pub(super) base: u32,
}

impl Stream {
    /// Whether anything was said.
    pub fn is_empty(&self) -> bool {
        self.first_ns == 0
    }

    /// Takes a packet in; false when it is none of this stream's.
    fn take(&mut self, head: &Head) -> bool {
        if self.is_empty() {
            self.base = head.sequence;
            self.first_ns = head.time_ns;
        }
        let offset = head.sequence.wrapping_sub(self.base) as usize;
        // Another connection on the same ports begins at another number.
        if offset > u16::MAX as usize * 16 {
            return false;
        }
        self.last_ns = self.last_ns.max(head.time_ns);
        if self.truncated || offset < self.bytes.len() {
            // Sent again, or past a gap.
            return true;
        }
        if offset > self.bytes.len() {
            self.truncated = true;
            return true;
        }
        let room = STREAM.saturating_sub(self.bytes.len());
        let take = head.bytes.len().min(room);
        self.bytes.extend_from_slice(&head.bytes[..take]);
        self.truncated = (head.length as usize) > take;
        true
    }
}

/// Both ends of a conversation in one order, whoever speaks.
type Ends = (SocketAddr, SocketAddr);

fn ends(one: SocketAddr, other: SocketAddr) -> Ends {
    if one <= other {
        (one, other)
    } else {
        (other, one)
    }
}

/// What both ends said; `0` of the pair is the smaller end's.
#[derive(Clone, Debug, Default)]
struct Exchange {
    streams: [Stream; 2],
    last_ns: u64,
}

/// The client's and the server's words.
pub type Words<'a> = (&'a Stream, &'a Stream);

/// All exchanges of late.
#[derive(Debug, Default)]
pub struct Exchanges(HashMap<Ends, Exchange>);

impl Exchanges {
    /// Takes a head in.
    pub fn take(&mut self, head: &Head) {
        let conversation = Conversation::of_key(&head.key);
        let (a, b) = (conversation.a(), conversation.b());
        let sender = if head.from_a { a } else { b };
        let ends = ends(a, b);
        if self.0.len() >= MOST && !self.0.contains_key(&ends) {
            self.expire(head.time_ns);
            if self.0.len() >= MOST {
                return;
            }
        }
        let exchange = self.0.entry(ends).or_default();
        let side = usize::from(sender != ends.0);
        exchange.last_ns = head.time_ns;
        if !exchange.streams[side].take(head) {
            *exchange = Exchange {
                last_ns: head.time_ns,
                ..Exchange::default()
            };
            exchange.streams[side].take(head);
        }
    }

    /// What was said under one of a connection's tuples since its start.
    pub fn find(&self, tuples: &[Tuple], since_ns: u64) -> Option<Words<'_>> {
        tuples.iter().find_map(|tuple| {
            let ends = ends(tuple.source, tuple.destination);
            let exchange = self.0.get(&ends)?;
            let [small, large] = &exchange.streams;
            let words = if tuple.source == ends.0 {
                (small, large)
            } else {
                (large, small)
            };
            let (client, server) = words;
            let first = [client, server]
                .iter()
                .filter(|stream| !stream.is_empty())
                .map(|stream| stream.first_ns)
                .min()?;
            (first >= since_ns).then_some(words)
        })
    }

    /// Forgets what a connection said.
    pub fn forget(&mut self, tuples: &[Tuple]) {
        for tuple in tuples {
            self.0.remove(&ends(tuple.source, tuple.destination));
        }
    }

    /// Forgets what is old.
    pub fn expire(&mut self, now_ns: u64) {
        self.0
            .retain(|_, exchange| now_ns.saturating_sub(exchange.last_ns) < AGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Protocol;
    use nodescope_ebpf::{HopKey, mapped};

    fn head(from_a: bool, sequence: u32, length: u32, bytes: &[u8]) -> Head {
        Head {
            time_ns: 100,
            key: HopKey {
                a: mapped([10, 0, 0, 1]),
                b: mapped([10, 0, 0, 2]),
                a_port: 40_000,
                b_port: 80,
                protocol: 6,
                ..HopKey::default()
            },
            from_a,
            sequence,
            length,
            bytes: bytes.to_vec(),
        }
    }

    fn tuple() -> Tuple {
        Tuple {
            source: SocketAddr::from(([10, 0, 0, 1], 40_000)),
            destination: SocketAddr::from(([10, 0, 0, 2], 80)),
            protocol: Protocol::TCP,
        }
    }

    fn words(exchanges: &Exchanges) -> Option<(Vec<u8>, bool)> {
        let (_, server) = exchanges.find(&[tuple()], 50)?;
        Some((server.bytes.clone(), server.truncated))
    }

    #[test]
    fn packets_join_and_repetitions_do_not() {
        let mut exchanges = Exchanges::default();
        exchanges.take(&head(true, 7, 3, b"GET"));
        exchanges.take(&head(false, u32::MAX, 2, b"ab"));
        exchanges.take(&head(false, u32::MAX, 2, b"ab"));
        exchanges.take(&head(false, 1, 2, b"cd"));
        assert_eq!(words(&exchanges), Some((b"abcd".to_vec(), false)));
        // A connection that began later said nothing.
        assert_eq!(exchanges.find(&[tuple()], 101), None);
    }

    #[test]
    fn a_gap_ends_what_is_known() {
        let mut exchanges = Exchanges::default();
        exchanges.take(&head(false, 0, 2, b"ab"));
        exchanges.take(&head(false, 5, 2, b"fg"));
        exchanges.take(&head(false, 2, 3, b"cde"));
        assert_eq!(words(&exchanges), Some((b"ab".to_vec(), true)));
    }

    #[test]
    fn a_packet_of_which_only_the_head_came_is_the_last() {
        let mut exchanges = Exchanges::default();
        exchanges.take(&head(false, 0, 10, b"ab"));
        exchanges.take(&head(false, 2, 2, b"cd"));
        assert_eq!(words(&exchanges), Some((b"ab".to_vec(), true)));
    }

    #[test]
    fn ports_used_anew_begin_anew() {
        let mut exchanges = Exchanges::default();
        exchanges.take(&head(false, 0, 2, b"ab"));
        exchanges.take(&head(false, 3_000_000_000, 2, b"xy"));
        assert_eq!(words(&exchanges), Some((b"xy".to_vec(), false)));
    }
}
