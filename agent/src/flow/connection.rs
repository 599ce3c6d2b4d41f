//! One connection on this node: the hops that belong to it and what they add up to.

use nodescope_ebpf::{HopKey, HopRecord, extra::Extra, packet::tcp_flag};

use super::model::{Counts, Direction, End, NatSource, Protocol, Tcp, TcpState, Tuple};

/// What one hook pair saw of the connection.
#[derive(Clone, Debug)]
pub struct HopState {
    /// Its key.
    pub key: HopKey,
    /// From the key's `a` to its `b`, since the connection's start.
    pub ab: Counts,
    /// From `b` to `a`.
    pub ba: Counts,
    /// The newest record of the kernel's: times, flags.
    pub record: HopRecord,
    /// What few hops have.
    pub extra: Option<Box<Extra>>,
    /// Whether the connection's initiator is the key's `a`.
    pub from_a: bool,
}

/// A connection's translation, once a hook has shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The initiator's tuple before.
    pub original: Tuple,
    /// The initiator's tuple after.
    pub translated: Tuple,
    /// Who said so.
    pub source: NatSource,
}

/// One connection as it is now, put together for a record about it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Stable id on this node.
    pub id: u64,
    /// The initiator's original tuple.
    pub tuple: Tuple,
    /// What conntrack said; `None` while no hook has shown an entry.
    pub translation: Option<Translation>,
    /// Its hops, in the order in which they were found.
    pub hops: Vec<HopState>,
    /// `CLOCK_MONOTONIC` nanoseconds of the first packet.
    pub first_ns: u64,
    /// Whether an end was seen.
    pub ended: bool,
    /// Totals of the last record.
    pub reported: (Counts, Counts),
    /// Segments sent again by the initiator's socket and by the other end's.
    pub retransmits: (u64, u64),
}

impl Connection {
    /// The initiator's tuple as the far end sees it.
    pub fn far(&self) -> Tuple {
        self.translation.map_or(self.tuple, |t| t.translated)
    }

    /// Whether the initiator is the key's `a` at a hop.
    pub fn initiator_is_a(&self, hop: &HopState) -> bool {
        hop.from_a
    }

    /// Direction in which the initiator's packets cross a hop.
    pub fn direction(&self, hop: &HopState) -> Direction {
        // Orientation 0: packets from `a` enter.
        if self.initiator_is_a(hop) == (hop.key.orientation == 0) {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }

    /// The initiator's counts and the answer's at a hop. ICMP errors are neither's.
    pub fn counts(&self, hop: &HopState) -> (Counts, Counts) {
        let [from_a, from_b] = hop.errors();
        let (ab, ba) = (hop.ab - from_a, hop.ba - from_b);
        if self.initiator_is_a(hop) {
            (ab, ba)
        } else {
            (ba, ab)
        }
    }

    /// ICMP errors at a hop: to the initiator, and to the other end.
    pub fn errors(&self, hop: &HopState) -> (Counts, Counts) {
        let [from_a, from_b] = hop.errors();
        if self.initiator_is_a(hop) {
            (from_b, from_a)
        } else {
            (from_a, from_b)
        }
    }

    /// Who sent the first RST, as the first hop that saw one says.
    fn reset_by(&self) -> Option<End> {
        self.hops.iter().find_map(|hop| {
            let by_a = match (hop.record.ab_rst, hop.record.ba_rst) {
                (0, 0) => return None,
                (1, _) => true,
                (2, 1) | (0, _) => false,
                (_, _) => true,
            };
            Some(if by_a == self.initiator_is_a(hop) {
                End::Initiator
            } else {
                End::Responder
            })
        })
    }

    /// TCP flags of the initiator and of the answer: the union over all hops.
    pub fn flags(&self) -> (u8, u8) {
        self.hops.iter().fold((0, 0), |(forward, reply), hop| {
            let (ab, ba) = (hop.record.ab_flags, hop.record.ba_flags);
            if self.initiator_is_a(hop) {
                (forward | ab, reply | ba)
            } else {
                (forward | ba, reply | ab)
            }
        })
    }

    /// State of a TCP connection; `None` for other protocols.
    pub fn state(&self) -> Option<TcpState> {
        let (forward, reply) = self.flags();
        (self.tuple.protocol == Protocol::TCP).then(|| state(forward, reply))
    }

    /// What is to be said of a TCP connection; `None` for other protocols.
    pub fn tcp(&self) -> Option<Tcp> {
        let state = self.state()?;
        let (forward, reply) = self.flags();
        Some(Tcp {
            state,
            handshake_rtt: None,
            forward_flags: forward,
            reply_flags: reply,
            reset_by: self.reset_by(),
            retransmits: self.retransmits,
            zero_windows: self.zero_windows(),
        })
    }
}

/// State of a TCP connection by the flags of the initiator and of the answer.
pub(super) fn state(forward: u8, reply: u8) -> TcpState {
    let syn = tcp_flag::SYN;
    if forward & syn != 0 && reply & syn == 0 && reply & tcp_flag::RST != 0 {
        TcpState::Refused
    } else if (forward | reply) & tcp_flag::RST != 0 {
        TcpState::Reset
    } else if forward & reply & tcp_flag::FIN != 0 {
        TcpState::Closed
    } else if (forward | reply) & tcp_flag::FIN != 0 {
        TcpState::HalfClosed
    } else if forward & syn != 0 && reply & syn == 0 {
        TcpState::SynSent
    } else if forward & syn != 0 && forward & tcp_flag::ACK == 0 {
        TcpState::SynReceived
    } else {
        TcpState::Established
    }
}

/// Whether both sides have finished, or one has reset.
pub(super) fn is_over(state: TcpState) -> bool {
    matches!(
        state,
        TcpState::Closed | TcpState::Reset | TcpState::Refused
    )
}
