//! Packets that died: who sent them to whom, why and where, since the agent started.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::flow::{Counts, Drop, Flow, Identity, ObjectName, Protocol};

/// Kinds of loss that are kept; of more, those that ended longest ago are forgotten.
const MOST: usize = 4096;

/// Who sent what to whom, why it died and where. The sender's port is left out: a client takes
/// another one for each try.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    reason: Arc<str>,
    hook: String,
    protocol: Protocol,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

/// One kind of loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// Why and where.
    pub drop: Drop,
    /// Protocol.
    pub protocol: Protocol,
    /// Sender's address.
    pub source: IpAddr,
    /// Sender's pod.
    pub source_pod: Option<ObjectName>,
    /// Receiver's address.
    pub destination: IpAddr,
    /// Receiver's port, 0 where the protocol has none.
    pub port: u16,
    /// Receiver's pod.
    pub destination_pod: Option<ObjectName>,
    /// The service that the receiver's address belongs to.
    pub service: Option<ObjectName>,
    /// How much.
    pub counts: Counts,
    /// When the first died.
    pub first: SystemTime,
    /// When the last was told of.
    pub last: SystemTime,
}

#[derive(Debug, Default)]
struct State {
    lost: HashMap<Key, Lost>,
    forgotten: u64,
}

/// All losses of the node. Cloning gives another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Losses(Arc<Mutex<State>>);

impl Losses {
    /// Takes in a flow that has its names; those that tell of no loss are passed over.
    pub fn observe(&self, flow: &Flow) {
        let Some(drop) = &flow.drop else {
            return;
        };
        let port = if flow.tuple.protocol.is_icmp() {
            0
        } else {
            flow.tuple.destination.port()
        };
        let key = Key {
            reason: Arc::clone(&drop.reason),
            hook: drop.hook(),
            protocol: flow.tuple.protocol,
            source: flow.tuple.source.ip(),
            destination: flow.tuple.destination.ip(),
            port,
        };
        // Sums: nothing is left half-done by a panic.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.lost.contains_key(&key) && state.lost.len() >= MOST {
            state.forget_oldest();
        }
        let lost = state.lost.entry(key).or_insert_with(|| Lost {
            drop: drop.clone(),
            protocol: flow.tuple.protocol,
            source: flow.tuple.source.ip(),
            source_pod: None,
            destination: flow.tuple.destination.ip(),
            port,
            destination_pod: None,
            service: None,
            counts: Counts::default(),
            first: flow.started,
            last: flow.time,
        });
        lost.counts += flow.forward.delta;
        lost.last = flow.time;
        lost.source_pod = pod(&flow.source).or(lost.source_pod.take());
        lost.destination_pod = pod(&flow.destination).or(lost.destination_pod.take());
        lost.service = flow.destination_service.clone().or(lost.service.take());
    }

    /// All kinds of loss, the newest first, and how many were forgotten for want of room.
    pub fn all(&self) -> (Vec<Lost>, u64) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = state.lost.values().cloned().collect();
        all.sort_by_key(|lost| std::cmp::Reverse(lost.last));
        (all, state.forgotten)
    }
}

impl State {
    /// A quarter at once, so that the next ones come cheap.
    fn forget_oldest(&mut self) {
        let mut ends: Vec<_> = self.lost.values().map(|lost| lost.last).collect();
        ends.sort();
        let Some(limit) = ends.get(MOST / 4).copied() else {
            return;
        };
        let before = self.lost.len();
        self.lost.retain(|_, lost| lost.last > limit);
        self.forgotten += (before - self.lost.len()) as u64;
    }
}

fn pod(identity: &Identity) -> Option<ObjectName> {
    identity.pod().map(|pod| pod.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Direction, Event};
    use crate::sink::fixture::pod_to_pod;

    fn dropped(port: u16, reason: &str) -> Flow {
        let mut flow = pod_to_pod();
        flow.event = Event::Drop;
        flow.tuple.source.set_port(port);
        flow.forward.delta = Counts {
            packets: 2,
            bytes: 120,
        };
        flow.drop = Some(Drop {
            reason: reason.into(),
            interface: "veth0".into(),
            in_pod: false,
            direction: Direction::Ingress,
            function: None,
        });
        flow
    }

    #[test]
    fn tries_from_many_ports_are_one_loss() {
        let losses = Losses::default();
        for port in 40_000..40_010 {
            losses.observe(&dropped(port, "NETFILTER_DROP"));
        }
        losses.observe(&dropped(40_000, "NO_SOCKET"));
        losses.observe(&pod_to_pod());
        let (all, forgotten) = losses.all();
        assert_eq!((all.len(), forgotten), (2, 0));
        let by = |reason: &str| all.iter().find(|lost| &*lost.drop.reason == reason);
        let packets = |reason| by(reason).map(|lost| lost.counts.packets);
        assert_eq!(packets("NETFILTER_DROP"), Some(20));
        assert_eq!(packets("NO_SOCKET"), Some(2));
        let name = by("NO_SOCKET").and_then(|lost| lost.source_pod.clone());
        assert!(name.is_some_and(|name| name.namespace == "shop"));
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let losses = Losses::default();
        for index in 0..=MOST {
            let mut flow = dropped(1, "NETFILTER_DROP");
            let [high, low] = u16::try_from(index).unwrap_or(u16::MAX).to_be_bytes();
            flow.tuple.destination.set_ip([10, 9, high, low].into());
            flow.time += std::time::Duration::from_secs(index as u64);
            losses.observe(&flow);
        }
        let (all, forgotten) = losses.all();
        assert_eq!(
            all.len() + usize::try_from(forgotten).unwrap_or(0),
            MOST + 1
        );
        assert!(forgotten > 0);
        assert!(
            all.iter()
                .any(|lost| lost.destination == IpAddr::from([10, 9, 16, 0]))
        );
    }
}
