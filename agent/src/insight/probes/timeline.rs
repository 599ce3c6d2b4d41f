//! What happened to a service's endpoints, probes and traffic on this node, in order of time.

use std::collections::VecDeque;
use std::time::SystemTime;

use crate::flow::ObjectName;

/// Happenings that are kept: the newest.
const MOST: usize = 1024;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// When, as `CLOCK_MONOTONIC` nanoseconds: the order.
    pub at_ns: u64,
    /// When, by the clock.
    pub at: SystemTime,
    /// The service; none for what is about all of the node (kube-proxy's own health).
    pub service: Option<ObjectName>,
    /// What.
    pub what: What,
}

/// Kinds of happenings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The API lists other ready endpoints than before.
    Endpoints {
        /// Ready ones on this node before and after; none before for a service that is new.
        local: (Option<u64>, u64),
        /// Ready ones of all nodes, now.
        total: u64,
    },
    /// The answer to the load balancer is another one.
    Answer {
        /// Port that is probed.
        port: u16,
        /// Result, status and `localEndpoints` before, as text.
        before: String,
        /// The same now.
        after: String,
    },
    /// Probes of this port have stopped; the time is that of the last one.
    ProbesStopped {
        /// The port.
        port: u16,
    },
    /// They are there again.
    ProbesResumed {
        /// The port.
        port: u16,
    },
    /// No packet of a client came any more; the time is that of the last one.
    TrafficStopped,
    /// Clients' packets came again.
    TrafficResumed,
}

impl What {
    /// The kind as a word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Endpoints { .. } => "endpoints",
            Self::Answer { .. } => "answer",
            Self::ProbesStopped { .. } => "probes-stopped",
            Self::ProbesResumed { .. } => "probes-resumed",
            Self::TrafficStopped => "traffic-stopped",
            Self::TrafficResumed => "traffic-resumed",
        }
    }

    /// The rest as text.
    pub fn detail(&self) -> String {
        match self {
            Self::Endpoints {
                local: (Some(before), after),
                total,
            } => format!("ready on this node {before} -> {after}, in all {total}"),
            Self::Endpoints {
                local: (None, after),
                total,
            } => format!("ready on this node {after}, in all {total}"),
            Self::Answer {
                port,
                before,
                after,
            } => format!("port {port}: {before} -> {after}"),
            Self::ProbesStopped { port } => format!("port {port}: the last probe"),
            Self::ProbesResumed { port } => format!("port {port}: the first probe again"),
            Self::TrafficStopped => "the last packet of a client".to_owned(),
            Self::TrafficResumed => "packets of clients again".to_owned(),
        }
    }
}

/// The history.
#[derive(Debug, Default)]
pub struct Timeline(VecDeque<Happening>);

impl Timeline {
    /// Adds one; it may have happened before others that are there.
    pub fn add(&mut self, happening: Happening) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        let at = self
            .0
            .partition_point(|other| other.at_ns <= happening.at_ns);
        self.0.insert(at, happening);
    }

    /// Those of a service and of the whole node, the oldest first.
    pub fn of<'a>(&'a self, service: &'a ObjectName) -> impl Iterator<Item = &'a Happening> {
        self.0
            .iter()
            .filter(move |one| one.service.as_ref().is_none_or(|name| name == service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_in_order_of_time_and_bounded() {
        let name = ObjectName {
            namespace: "a".to_owned(),
            name: "b".to_owned(),
        };
        let mut timeline = Timeline::default();
        let add = |timeline: &mut Timeline, at_ns| {
            timeline.add(Happening {
                at_ns,
                at: SystemTime::UNIX_EPOCH,
                service: Some(name.clone()),
                what: What::TrafficStopped,
            });
        };
        for at_ns in [5, 3, 9] {
            add(&mut timeline, at_ns);
        }
        let order: Vec<_> = timeline.of(&name).map(|one| one.at_ns).collect();
        assert_eq!(order, [3, 5, 9]);
        assert_eq!(timeline.of(&ObjectName::default()).count(), 0);
        for at_ns in 10..2000 {
            add(&mut timeline, at_ns);
        }
        assert_eq!(timeline.of(&name).count(), MOST);
    }
}
