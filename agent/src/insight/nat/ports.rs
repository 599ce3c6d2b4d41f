//! Source ports that translations take up: the node's address and a port can be used once
//! towards each destination address, port and protocol.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::flow::{Nat, Protocol};

/// What a source port is used towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Address and port, after translation.
    pub address: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// The address whose ports are used.
    pub from: IpAddr,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.protocol)
    }
}

/// One use of a port: what [`Ports::add`] took and [`Ports::remove`] gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    destination: Destination,
    port: u16,
    pod: Arc<str>,
}

impl Use {
    /// The port that a translation takes; `None` where it takes none: the source is kept, or the
    /// protocol has no ports.
    pub fn of(nat: &Nat, pod: &Arc<str>) -> Option<Self> {
        let after = nat.translated;
        let ported = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&after.protocol);
        (ported && nat.is_source_translated()).then(|| Self {
            destination: Destination {
                address: after.destination,
                protocol: after.protocol,
                from: after.source.ip(),
            },
            port: after.source.port(),
            pod: Arc::clone(pod),
        })
    }
}

/// Ports in use towards one destination.
#[derive(Clone, Debug, Default)]
struct Taken {
    /// Open connections by port: a port can be taken anew before its old connection is known
    /// to be over.
    ports: HashMap<u16, u32>,
    /// Open connections by pod.
    pods: HashMap<Arc<str>, u32>,
}

/// Ports in use; as many entries as there are open translated connections, at most.
#[derive(Clone, Debug, Default)]
pub struct Ports(HashMap<Destination, Taken>);

/// Ports in use towards one destination, as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The destination.
    pub destination: Destination,
    /// Different source ports in use.
    pub ports: usize,
    /// Connections by pod (`namespace/name`, or its address), most first.
    pub pods: Vec<(Arc<str>, u32)>,
}

impl Ports {
    /// A connection took a port.
    pub fn add(&mut self, taken: &Use) {
        let here = self.0.entry(taken.destination).or_default();
        *here.ports.entry(taken.port).or_default() += 1;
        *here.pods.entry(Arc::clone(&taken.pod)).or_default() += 1;
    }

    /// The connection is over.
    pub fn remove(&mut self, taken: &Use) {
        let Some(here) = self.0.get_mut(&taken.destination) else {
            return;
        };
        release(&mut here.ports, &taken.port);
        release(&mut here.pods, &taken.pod);
        if here.ports.is_empty() {
            self.0.remove(&taken.destination);
        }
    }

    /// How many ports are in use towards each destination, most first.
    pub fn in_use(&self) -> Vec<InUse> {
        let mut all: Vec<InUse> = self
            .0
            .iter()
            .map(|(destination, taken)| {
                let mut pods: Vec<_> = taken
                    .pods
                    .iter()
                    .map(|(pod, count)| (Arc::clone(pod), *count))
                    .collect();
                pods.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                InUse {
                    destination: *destination,
                    ports: taken.ports.len(),
                    pods,
                }
            })
            .collect();
        all.sort_by_key(|one| (std::cmp::Reverse(one.ports), one.destination));
        all
    }
}

fn release<K: std::hash::Hash + Eq + Clone>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
