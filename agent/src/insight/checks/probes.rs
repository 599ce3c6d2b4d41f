//! Checks of health probes.

use std::time::Duration;

use super::{Facts, Finding, count, ends};
use crate::flow::{Class, TcpState};

/// A probe is missed when none came for so many intervals: one more than the two failures after
/// which Azure's load balancer takes a node out.
const MISSED: u32 = 3;

/// Intervals are not taken as shorter than this: Azure probes every 5 s at the fastest.
const SHORTEST: Duration = Duration::from_secs(5);

/// The interval to expect before two probes were seen: the longest of Azure's defaults.
const DEFAULT: Duration = Duration::from_secs(15);

/// Probes of one port, since the agent started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbesSeen {
    /// The port that is probed.
    pub port: u16,
    /// Probes.
    pub number: u32,
    /// When the first began.
    pub first: std::time::SystemTime,
    /// When the newest began.
    pub last: std::time::SystemTime,
}

impl ProbesSeen {
    fn interval(&self) -> Duration {
        let span = self.last.duration_since(self.first).unwrap_or_default();
        match self.number.checked_sub(1) {
            None | Some(0) => DEFAULT,
            Some(gaps) => (span / gaps).max(SHORTEST),
        }
    }
}

/// Probes of the load balancer keep coming at each port where they came.
pub(super) fn load_balancer(facts: &Facts<'_>) -> Finding {
    let balanced = facts
        .services
        .iter()
        .filter(|report| report.service.kind == "LoadBalancer")
        .count();
    if facts.probes.is_empty() {
        return Finding::unknown(match balanced {
            0 => "no service of type LoadBalancer, and no probe was seen".to_owned(),
            some => format!(
                "no probe was seen on this node, with {} of type LoadBalancer",
                count(some, "service")
            ),
        });
    }
    let age = |seen: &ProbesSeen| facts.now.duration_since(seen.last).unwrap_or_default();
    let absent = facts
        .probes
        .iter()
        .find(|seen| age(seen) > seen.interval() * MISSED);
    match absent {
        Some(seen) => Finding::fail(format!(
            "port {}: no probe for {} s, with one every {} s before: does the load balancer still \
             have this node, and do its probes pass the network security group?",
            seen.port,
            age(seen).as_secs(),
            seen.interval().as_secs()
        )),
        None => {
            let ports: Vec<String> = facts
                .probes
                .iter()
                .map(|seen| format!("port {} {} s ago", seen.port, age(seen).as_secs()))
                .collect();
            Finding::pass(format!("probes arrive: {}", ports.join(", ")))
        }
    }
}

/// The kubelet's probes of the pods here are answered.
pub(super) fn kubelet(facts: &Facts<'_>) -> Finding {
    let probes: Vec<_> = facts
        .flows
        .iter()
        .filter(|flow| flow.class == Class::KubeletProbe)
        .collect();
    if probes.is_empty() {
        return Finding::unknown("no probe of the kubelet was recognised of late");
    }
    let unanswered = probes.iter().rev().find(|flow| {
        flow.tcp.is_some_and(|tcp| {
            let silent = tcp.state == TcpState::SynSent && flow.reply.total.packets == 0;
            let refused = tcp.state == TcpState::Reset && flow.reply.total.packets <= 1;
            silent || refused
        })
    });
    match unanswered {
        Some(flow) => Finding::fail(format!("{} was not answered", ends(flow))),
        None => Finding::unknown(format!(
            "{} answered; what they said was not read",
            count(probes.len(), "probe")
        )),
    }
}
