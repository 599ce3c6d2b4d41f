//! Connections that are over, and records for the kernel to give up.

use nodescope_ebpf::{HopKey, NatState};

use super::model::{Protocol, TcpState};
use super::tracker::Tracker;

/// How long connections are kept without traffic, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP that has not ended.
    pub tcp: u64,
    /// TCP whose SYN has no answer: longer than a client waits before it asks again.
    pub unanswered: u64,
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
            // nf_conntrack_tcp_timeout_syn_sent (net/netfilter/nf_conntrack_proto_tcp.c).
            unanswered: 120 * SECOND,
            other: 60 * SECOND,
            linger: SECOND,
            translated: 25 * SECOND,
        }
    }
}

/// What the sweep found: records for the kernel to give up, and connections that are over.
#[derive(Debug, Default)]
pub struct Sweep {
    /// To be taken out of the kernel's table, and then passed to [`Tracker::taken`].
    pub retire: Vec<HopKey>,
    /// To be reported closed, and then passed to [`Tracker::remove`].
    pub closed: Vec<u64>,
}

impl Tracker {
    /// What is idle or over by now.
    pub fn sweep(&self, now_ns: u64, timeouts: &Timeouts) -> Sweep {
        let mut sweep = Sweep::default();
        for connection in self.connections.values() {
            let idle = now_ns.saturating_sub(connection.changed_ns);
            let limit = match connection.state() {
                Some(TcpState::SynSent) => timeouts.unanswered.min(timeouts.tcp),
                Some(_) => timeouts.tcp,
                None => timeouts.other,
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
