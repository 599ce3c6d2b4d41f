//! What the API says of the services that load balancers ask about, and whether clients'
//! packets come: the other side of the comparison.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Inventory;
use crate::flow::{Moment, ObjectName};

use super::timeline::{Happening, Timeline, What};

/// Clients are silent when nothing came for so long, in nanoseconds.
const SILENCE: u64 = 5_000_000_000;

/// kube-proxy may take so long to follow the API: an answer that is younger than the change
/// plus this and says otherwise is a contradiction.
const LAG: u64 = 2_000_000_000;

/// One service.
#[derive(Clone, Debug, Default)]
struct State {
    local: u64,
    total: u64,
    changed_ns: u64,
    /// Newest packet of a client; 0 for none.
    traffic_ns: u64,
    /// A stop or a return of traffic is to be told, because something changed.
    expecting: Option<Expecting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expecting {
    Stop,
    Return,
}

/// All services with a port on the nodes.
#[derive(Debug, Default)]
pub struct Services(BTreeMap<ObjectName, State>);

/// Ready endpoints on a node and in all, each address once, as kube-proxy counts them.
fn ready(inventory: &Inventory, service: &ObjectName, node: &str) -> (u64, u64) {
    let backends = inventory.service_backends(service);
    let ready = backends.iter().filter(|backend| backend.ready);
    let (mut local, mut all) = (BTreeSet::new(), BTreeSet::new());
    for backend in ready {
        all.insert(backend.ip);
        if backend.node.as_deref() == Some(node) {
            local.insert(backend.ip);
        }
    }
    (local.len() as u64, all.len() as u64)
}

impl Services {
    /// Takes over what the API says now.
    pub fn update(
        &mut self,
        inventory: &Inventory,
        node: &str,
        now: Moment,
        timeline: &mut Timeline,
    ) {
        if !inventory.is_complete() {
            return;
        }
        let mut before = std::mem::take(&mut self.0);
        for service in inventory.exposed_services() {
            let (local, total) = ready(inventory, &service.name, node);
            let known = before.remove(&service.name);
            let mut state = known.clone().unwrap_or_default();
            let was = known.map(|state| (state.local, state.total));
            if was != Some((local, total)) {
                state.changed_ns = now.monotonic_ns;
                state.expecting = match was {
                    Some((old, _)) if local < old => Some(Expecting::Stop),
                    Some((old, _)) if local > old => Some(Expecting::Return),
                    _ => state.expecting,
                };
                timeline.add(Happening {
                    at_ns: now.monotonic_ns,
                    at: now.wall,
                    service: Some(service.name.clone()),
                    what: What::Endpoints {
                        local: (was.map(|was| was.0), local),
                        total,
                    },
                });
                (state.local, state.total) = (local, total);
            }
            self.0.insert(service.name.clone(), state);
        }
    }

    /// Packets of a client came.
    pub fn traffic(&mut self, service: &ObjectName, now: Moment, timeline: &mut Timeline) {
        let Some(state) = self.0.get_mut(service) else {
            return;
        };
        if state.expecting == Some(Expecting::Return)
            && now.monotonic_ns.saturating_sub(state.traffic_ns) > SILENCE
        {
            state.expecting = None;
            timeline.add(Happening {
                at_ns: now.monotonic_ns,
                at: now.wall,
                service: Some(service.clone()),
                what: What::TrafficResumed,
            });
        }
        state.traffic_ns = now.monotonic_ns;
    }

    /// The answer to the load balancer changed: the traffic will.
    pub fn answer_changed(&mut self, service: &ObjectName, good: bool) {
        if let Some(state) = self.0.get_mut(service) {
            state.expecting = Some(if good {
                Expecting::Return
            } else {
                Expecting::Stop
            });
        }
    }

    /// Tells of traffic that has stopped.
    pub fn tick(&mut self, now: Moment, timeline: &mut Timeline) {
        for (name, state) in &mut self.0 {
            let silent = now.monotonic_ns.saturating_sub(state.traffic_ns) > SILENCE;
            if state.expecting == Some(Expecting::Stop) && state.traffic_ns != 0 && silent {
                state.expecting = None;
                timeline.add(Happening {
                    at_ns: state.traffic_ns,
                    at: now.wall_of(state.traffic_ns),
                    service: Some(name.clone()),
                    what: What::TrafficStopped,
                });
            }
        }
    }

    /// Ready endpoints on this node by the API.
    pub fn local(&self, service: &ObjectName) -> Option<u64> {
        self.0.get(service).map(|state| state.local)
    }

    /// Whether an answer of that time agrees with the API; `None` when the API changed so
    /// short before, or after, that it may not have known.
    pub fn agrees(&self, service: &ObjectName, said: u64, at_ns: u64) -> Option<bool> {
        let state = self.0.get(service)?;
        if said == state.local {
            return Some(true);
        }
        (at_ns > state.changed_ns.saturating_add(LAG)).then_some(false)
    }

    /// All of them with what is ready on this node.
    pub fn all(&self) -> impl Iterator<Item = (&ObjectName, u64)> {
        self.0.iter().map(|(name, state)| (name, state.local))
    }
}
