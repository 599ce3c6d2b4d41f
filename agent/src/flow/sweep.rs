//! Connections that are over, and records for the kernel to give up.

use nodescope_ebpf::{HopKey, NatState};

use super::model::{Protocol, TcpState};
use super::store::{At, coarse};
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
        let (mut sweep, mut retire) = (Sweep::default(), Vec::new());
        for (at, node) in &self.store.nodes {
            let idle = now_ns.saturating_sub(node.changed_ns);
            let limit = match node.state {
                Some(TcpState::SynSent) => timeouts.unanswered.min(timeouts.tcp),
                Some(_) => timeouts.tcp,
                None => timeouts.other,
            };
            if node.ended_ns != 0 && idle >= timeouts.linger || idle >= limit {
                sweep.closed.push(node.id);
                // A record that has gone over to another connection is in use.
                let own = self.store.hops_of(at as At).filter(|(_, hop)| hop.here);
                retire.extend(own.map(|(at, _)| at));
            }
        }
        let before = coarse(now_ns.saturating_sub(timeouts.translated));
        for (at, hop) in &self.store.hops {
            if hop.here
                && hop.changed <= before
                && hop.protocol != Protocol::TCP.0
                && NatState::of(hop.nat) == NatState::Translated
            {
                retire.push(at as At);
            }
        }
        retire.sort_unstable();
        retire.dedup();
        sweep.retire = retire.into_iter().map(|at| self.store.key(at)).collect();
        sweep
    }

    /// An interface is gone: connections that passed it are over.
    pub fn end_at(&mut self, ifindex: u32, now_ns: u64) {
        for (_, hop) in &self.store.hops {
            let node = &mut self.store.nodes[hop.connection as usize];
            if hop.ifindex == ifindex && node.ended_ns == 0 {
                node.ended_ns = now_ns;
                node.changed_ns = now_ns;
            }
        }
    }
}
