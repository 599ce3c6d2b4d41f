//! What the API told, and the inventory built from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::flow::{Node, Pod};

use super::KINDS;
use super::addresses::Addresses;
use super::config::{Overrides, Scope};
use super::inventory::Inventory;
use super::masquerade::{self, CONFIG_MAPS, MasqueradeRecord};
use super::names::Names;
use super::nodes::Nodes;
use super::peers::{self, Agents};
use super::services::{Moved, Service};
use super::table::{Change, Table};
use super::trim::{PodRecord, SliceRecord};

/// A change of any kind.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// Of a pod of the own node.
    Pod(Change<PodRecord>),
    /// Of a pod of another node, or of none yet.
    Peer(Change<PodRecord>),
    /// Of a service.
    Service(Change<Service>),
    /// Of an EndpointSlice.
    Slice(Change<SliceRecord>),
    /// Of a node.
    Node(Change<Arc<Node>>),
    /// Of one of the masquerade agents' ConfigMaps, by its place in [`CONFIG_MAPS`].
    Masquerade(usize, Change<MasqueradeRecord>),
}

/// Everything the API told.
#[derive(Debug)]
pub(super) struct Tables {
    /// Which pods are watched.
    scope: Scope,
    /// The own node; empty where nobody said.
    node: Arc<str>,
    /// Where the agent's own DaemonSet is.
    namespace: String,
    names: Names,
    pods: Table<PodRecord>,
    peers: Table<PodRecord>,
    services: Table<Service>,
    slices: Table<SliceRecord>,
    nodes: Table<Arc<Node>>,
    /// A watch each, so a table each.
    masquerade: [Table<MasqueradeRecord>; CONFIG_MAPS.len()],
    addresses: Addresses,
    /// Pods with the node's own address, by node.
    host_network: Arc<HashMap<Arc<str>, u32>>,
    /// Of pods that are known by slices only: in how many they are, by one of their addresses.
    learned: HashMap<(String, IpAddr), u32>,
    /// Services with other endpoints than the newest inventory has.
    moved: Vec<Moved>,
    agents: Arc<Agents>,
    agents_changed: bool,
    /// Whether a pod of the own node changed.
    own_changed: bool,
    inventory: Inventory,
}

impl Tables {
    /// Empty ones, of an agent that watches all pods in one go.
    pub(super) fn new(overrides: Overrides) -> Self {
        Self {
            scope: Scope::Node,
            node: Arc::default(),
            namespace: String::new(),
            names: Names::default(),
            pods: Table::default(),
            peers: Table::default(),
            services: Table::default(),
            slices: Table::default(),
            nodes: Table::default(),
            masquerade: Default::default(),
            addresses: Addresses::default(),
            host_network: Arc::default(),
            learned: HashMap::new(),
            moved: Vec::new(),
            agents: Arc::default(),
            agents_changed: false,
            own_changed: false,
            inventory: Inventory::new(overrides),
        }
    }

    /// The same, told in which namespace the agent's own DaemonSet is.
    pub(super) fn within(self, namespace: &str) -> Self {
        let namespace = namespace.to_owned();
        Self { namespace, ..self }
    }

    /// The same, told the own node, and whether the pods of others are watched, too.
    pub(super) fn on(mut self, node: &str, scope: Scope) -> Self {
        self.node = node.into();
        self.inventory.here.0 = self.node.clone();
        self.scope = scope;
        self
    }

    /// The agents as of the newest inventory; the same `Arc` until one comes, goes or moves.
    pub(super) fn agents(&self) -> &Arc<Agents> {
        &self.agents
    }

    /// Takes one change in.
    pub(super) fn apply(&mut self, update: Update, now: SystemTime) {
        match update {
            Update::Pod(change) => self.apply_pod(true, change, now),
            Update::Peer(change) => self.apply_pod(false, change, now),
            Update::Service(change) => drop(self.services.apply(change)),
            Update::Slice(change) => self.apply_slice(change, now),
            Update::Node(change) => drop(self.nodes.apply(change)),
            Update::Masquerade(which, change) => {
                let Some(table) = self.masquerade.get_mut(which) else {
                    return;
                };
                if let Some((
                    MasqueradeRecord {
                        rules: Err(why), ..
                    },
                    _,
                )) = table.apply(change).current
                {
                    tracing::warn!(
                        why,
                        "masquerade configuration not understood: no translation is judged by it"
                    );
                }
            }
        }
    }

    fn apply_pod(&mut self, own: bool, mut change: Change<PodRecord>, now: SystemTime) {
        if let Change::Listed(record) | Change::Applied(record) = &mut change {
            self.names.of_pod(record);
            if self.is_elsewhere(&record.pod.node) {
                record.forget_probes();
            }
        }
        let table = if own { &mut self.pods } else { &mut self.peers };
        let done = table.apply(change);
        self.own_changed |= own && (!done.gone.is_empty() || done.current.is_some());
        for old in &done.gone {
            // The same pod with other labels keeps its addresses, and its time with them.
            let same = done.current.as_ref();
            let same = same.filter(|(new, _)| new.pod.uid == old.pod.uid);
            let kept = same.map_or(&[][..], |(new, _)| &new.pod.ips);
            self.addresses.release(&old.pod, kept, now);
            self.count(old, false);
        }
        if let Some((record, listed)) = &done.current {
            self.addresses.apply(record, *listed, now);
            self.count(record, true);
        }
    }

    fn is_elsewhere(&self, node: &Arc<str>) -> bool {
        !self.node.is_empty() && *node != self.node
    }

    /// Counts a pod that came or went among those with the node's own address, and the agents.
    fn count(&mut self, record: &PodRecord, came: bool) {
        self.agents_changed |= record.agent.is_some();
        if !record.host_network || record.finished {
            return;
        }
        let counts = Arc::make_mut(&mut self.host_network);
        let count = counts.entry(record.pod.node.clone()).or_default();
        *count = if came {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
    }

    fn apply_slice(&mut self, mut change: Change<SliceRecord>, now: SystemTime) {
        if let Change::Listed(record) | Change::Applied(record) = &mut change {
            self.names.of_slice(record);
            match (self.scope, &self.node) {
                (Scope::Node, own) if !own.is_empty() => {
                    record.targets.retain(|pod| pod.node != *own);
                }
                _ => record.targets = Vec::new(),
            }
        }
        let done = self.slices.apply(change);
        let gone = done.gone.iter().map(|record| (record, None));
        let current = done.current.iter().map(|(record, _)| record);
        let current = current.map(|record| (record, Some(record.backends.clone())));
        for (record, backends) in gone.chain(current) {
            self.agents_changed |= record.agents;
            if let Some(service) = record.service.clone() {
                let slice = (&*record.name.name).into();
                self.moved.push(Moved {
                    service,
                    slice,
                    backends,
                });
            }
        }
        // The new ones first: a pod that is in both is not gone in between.
        if let Some((record, listed)) = &done.current {
            for pod in &record.targets {
                self.learn(pod, *listed, now);
            }
        }
        for pod in done.gone.iter().flat_map(|record| &record.targets) {
            self.unlearn(pod, now);
        }
    }

    /// A slice has a pod that no watch tells of.
    fn learn(&mut self, pod: &Arc<Pod>, listed: bool, now: SystemTime) {
        let Some(ip) = pod.ips.first() else {
            return;
        };
        let slices = self.learned.entry((pod.uid.clone(), *ip)).or_default();
        *slices += 1;
        if *slices == 1 {
            let record = PodRecord::learned(pod.clone());
            self.addresses.apply(&record, listed, now);
            self.pods.changed = true;
        }
    }

    /// A slice has it no more.
    fn unlearn(&mut self, pod: &Arc<Pod>, now: SystemTime) {
        let Some(ip) = pod.ips.first() else {
            return;
        };
        let key = (pod.uid.clone(), *ip);
        let Some(slices) = self.learned.get_mut(&key) else {
            return;
        };
        *slices -= 1;
        if *slices == 0 {
            self.learned.remove(&key);
            self.addresses.release(pod, &[], now);
            self.pods.changed = true;
        }
    }

    /// Forgets pods that are gone for long.
    pub(super) fn expire(&mut self, now: SystemTime) {
        self.pods.changed |= self.addresses.expire(now);
    }

    /// Whether [`Tables::build`] would give another inventory than the last time.
    pub(super) fn is_changed(&self) -> bool {
        self.pods.changed
            || self.peers.changed
            || self.services.changed
            || self.slices.changed
            || self.nodes.changed
            || self.masquerade.iter().any(|table| table.changed)
    }

    /// Whether somebody waits for what changed: packets of the own pods for their names, or who
    /// asks whether all is known for a list that is complete.
    pub(super) fn is_urgent(&self) -> bool {
        self.own_changed || self.listed() != self.inventory.listed
    }

    /// Of which kinds there was a full list.
    fn listed(&self) -> [bool; KINDS.len()] {
        [
            self.pods.listed && (self.scope == Scope::Node || self.peers.listed),
            self.services.listed,
            self.slices.listed,
            self.nodes.listed,
            self.masquerade.iter().all(|table| table.listed),
        ]
    }

    /// Pods known by a watch.
    pub(super) fn pods(&self) -> usize {
        self.pods.len() + self.peers.len()
    }

    /// The inventory as of now; parts that did not change are shared with the one before.
    pub(super) fn build(&mut self) -> Arc<Inventory> {
        let pods = std::mem::take(&mut self.pods.changed);
        if std::mem::take(&mut self.peers.changed) || pods {
            self.inventory.addresses = Arc::new(self.addresses.snapshot());
            self.inventory.host_network = self.host_network.clone();
        }
        if pods {
            self.inventory.here.1 = self.here();
        }
        if std::mem::take(&mut self.agents_changed) {
            self.find_agents();
        }
        self.build_services();
        if std::mem::take(&mut self.nodes.changed) {
            self.inventory.nodes = Arc::new(Nodes::build(self.nodes.values()));
        }
        if self.masquerade.iter().any(|table| table.changed) {
            self.unite_masquerade();
        }
        self.inventory.counts = [
            self.pods(),
            self.services.len(),
            self.slices.len(),
            self.nodes.len(),
            self.masquerade.iter().map(Table::len).sum(),
        ];
        self.inventory.listed = self.listed();
        self.own_changed = false;
        Arc::new(self.inventory.clone())
    }

    /// The own node's pods, once for each address that they have now.
    fn here(&self) -> Arc<[Arc<Pod>]> {
        if self.node.is_empty() {
            return Arc::default();
        }
        let own = self.pods.values().filter(|record| !record.host_network);
        let ips = own.flat_map(|record| &record.pod.ips);
        let held = ips.filter_map(|ip| self.addresses.held_at(*ip));
        let here = held.filter(|pod| pod.node == self.node);
        here.cloned().collect()
    }

    fn find_agents(&mut self) {
        let agents = match self.scope {
            Scope::Node if !self.node.is_empty() => {
                peers::agents_behind(self.slices.values(), &self.namespace)
            }
            _ => {
                let pods = self.pods.values().chain(self.peers.values());
                peers::agents(pods, &self.namespace)
            }
        };
        if agents != *self.agents {
            self.agents = Arc::new(agents);
        }
    }

    fn build_services(&mut self) {
        let services = std::mem::take(&mut self.services.changed);
        if !std::mem::take(&mut self.slices.changed) && !services {
            return;
        }
        let mut next = (*self.inventory.services).clone();
        if services {
            next.set_services(self.services.values());
        }
        for moved in self.moved.drain(..) {
            next.change(moved);
        }
        // A first list has thousands.
        self.moved.shrink_to(64);
        self.inventory.services = Arc::new(next);
    }

    fn unite_masquerade(&mut self) {
        let mut listed = true;
        for table in &mut self.masquerade {
            table.changed = false;
            listed &= table.listed;
        }
        let records = self.masquerade.iter().flat_map(Table::values);
        let flags = &self.inventory.overrides.non_masquerade;
        self.inventory.masquerade = Arc::new(masquerade::unite(flags, records, listed));
    }
}
