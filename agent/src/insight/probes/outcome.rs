//! How a probe ended, from the connection's TCP state and what was said over it.

use std::time::Duration;

use nodescope_ebpf::packet::tcp_flag;

use super::answer::{Answer, Health, Request};
use super::grpc;
use crate::flow::{ProbeHandler, ProbeKind, ProbeResult, ProbeStatus, Tcp, TcpState};

/// A probe's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the prober is content.
    pub result: ProbeResult,
    /// What the answer was.
    pub status: ProbeStatus,
    /// The health answer's body.
    pub health: Option<Health>,
    /// The weight that kube-proxy's header says.
    pub weight: Option<u64>,
    /// From the first packet to the answer.
    pub latency: Option<Duration>,
    /// Nothing that is still to come changes it.
    pub last: bool,
}

impl Outcome {
    fn new(result: ProbeResult, status: ProbeStatus, latency: Option<Duration>) -> Self {
        Self {
            result,
            status,
            health: None,
            weight: None,
            latency,
            last: true,
        }
    }
}

/// What is known of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What the probe is for.
    pub kind: ProbeKind,
    /// How it asks, where a spec says.
    pub handler: Option<&'a ProbeHandler>,
    /// Its TCP state.
    pub tcp: Tcp,
    /// Whether its last record is out.
    pub closed: bool,
    /// What was asked.
    pub request: &'a Request,
    /// What was answered.
    pub answer: &'a Answer,
    /// From the first packet to the first byte of the answer.
    pub answered_after: Option<Duration>,
    /// Since the first packet.
    pub age: Duration,
    /// How long the prober waits.
    pub patience: Duration,
}

/// After its first byte the rest of an answer may take so long to be seen.
const REST: Duration = Duration::from_millis(200);

/// How it ended; `None` while it is under way.
pub fn outcome(seen: &Seen<'_>) -> Option<Outcome> {
    use ProbeResult::{Failure, Success, Timeout, Unknown};
    let over = seen.closed || seen.age > seen.patience;
    let latency = seen.answered_after;
    match seen.answer {
        Answer::Http(http) => {
            let content = match seen.kind {
                // Load balancers want 200 and nothing else.
                ProbeKind::Lb => http.status == 200,
                // k8s.io/kubernetes pkg/probe/http: 200 and up, below 400.
                _ => (200..400).contains(&http.status),
            };
            let result = if content { Success } else { Failure };
            let rest = latency.is_some_and(|latency| seen.age > latency + REST);
            return Some(Outcome {
                health: http.health,
                weight: http.weight,
                last: http.complete || over || rest,
                ..Outcome::new(result, ProbeStatus::Http(http.status), latency)
            });
        }
        Answer::Grpc(status) => {
            let result = if grpc::is_serving(status) {
                Success
            } else {
                Failure
            };
            return Some(Outcome::new(result, ProbeStatus::Grpc(status), latency));
        }
        Answer::Unreadable if over => {
            return Some(Outcome::new(Unknown, ProbeStatus::Unreadable, latency));
        }
        // The rest of the answer may make it readable.
        Answer::Unreadable => return None,
        Answer::None => {}
    }
    // Whoever acknowledges was answered, seen or not.
    let answered =
        seen.tcp.reply_flags & tcp_flag::SYN != 0 || seen.tcp.forward_flags & tcp_flag::ACK != 0;
    let reset = matches!(seen.tcp.state, TcpState::Reset | TcpState::Refused);
    if !answered {
        if reset && seen.tcp.reply_flags & tcp_flag::RST != 0 {
            return Some(Outcome::new(Failure, ProbeStatus::Refused, None));
        }
        return over.then(|| Outcome::new(Timeout, ProbeStatus::NoAnswer, None));
    }
    let connect_only = match seen.handler {
        Some(handler) => *handler == ProbeHandler::Tcp,
        None => *seen.request == Request::None,
    };
    if connect_only {
        // A load balancer that has not asked yet may still do so.
        return (seen.handler.is_some() || over || ended(seen.tcp))
            .then(|| Outcome::new(Success, ProbeStatus::Connected, seen.tcp.handshake_rtt));
    }
    if *seen.request == Request::None || seen.tcp.reply_flags & tcp_flag::SYN == 0 {
        // Something was asked that was not captured; or the far end's first packet was not seen,
        // so that more of what it sent may not have been: the hooks came in the middle.
        return over.then(|| Outcome::new(Unknown, ProbeStatus::Unreadable, None));
    }
    if seen.tcp.reply_flags & tcp_flag::RST != 0 {
        return Some(Outcome::new(Failure, ProbeStatus::Reset, None));
    }
    (over || ended(seen.tcp)).then(|| Outcome::new(Timeout, ProbeStatus::NoAnswer, None))
}

/// Whether the client has finished.
fn ended(tcp: Tcp) -> bool {
    (tcp.forward_flags & (tcp_flag::FIN | tcp_flag::RST)) != 0
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
