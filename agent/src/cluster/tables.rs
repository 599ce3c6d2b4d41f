//! The objects as last told by the API, and the inventory built from them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::flow::{Node, ObjectName};

use super::addresses::Addresses;
use super::config::Overrides;
use super::inventory::Inventory;
use super::masquerade::{self, CONFIG_MAPS, MasqueradeRecord};
use super::nodes::Nodes;
use super::peers::{self, Agents};
use super::services::{Service, Services};
use super::trim::{Named, PodRecord, SliceRecord};

/// What a watch tells of one kind.
#[derive(Clone, Debug)]
pub(super) enum Change<T> {
    /// A full list begins.
    Begin,
    /// An object of that list.
    Listed(T),
    /// The list is complete: what is not in it is gone.
    Complete,
    /// An object was added or changed.
    Applied(T),
    /// An object was deleted.
    Deleted(T),
}

/// A change of any kind.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// Of a pod.
    Pod(Change<PodRecord>),
    /// Of a service.
    Service(Change<Service>),
    /// Of an EndpointSlice.
    Slice(Change<SliceRecord>),
    /// Of a node.
    Node(Change<Arc<Node>>),
    /// Of one of the masquerade agents' ConfigMaps, by its place in [`CONFIG_MAPS`].
    Masquerade(usize, Change<MasqueradeRecord>),
}

/// Objects of one kind by name.
#[derive(Debug)]
struct Table<T> {
    objects: HashMap<ObjectName, T>,
    /// Names that the list under way has shown.
    listing: Option<HashSet<ObjectName>>,
    listed: bool,
    changed: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            listing: None,
            listed: false,
            changed: false,
        }
    }
}

impl<T: Named + PartialEq + Clone> Table<T> {
    /// Takes a change in. Returns what is no longer so (objects gone or replaced), and the
    /// object as it is now with whether it comes from a list.
    fn apply(&mut self, change: Change<T>) -> (Vec<T>, Option<(T, bool)>) {
        match change {
            Change::Begin => {
                self.listing = Some(HashSet::new());
                (Vec::new(), None)
            }
            Change::Listed(object) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(object.object_name());
                }
                self.insert(object, true)
            }
            Change::Applied(object) => self.insert(object, false),
            Change::Deleted(object) => {
                let gone = self.objects.remove(&object.object_name());
                self.changed |= gone.is_some();
                (gone.into_iter().collect(), None)
            }
            Change::Complete => {
                let kept = self.listing.take().unwrap_or_default();
                let gone = self.objects.extract_if(|name, _| !kept.contains(name));
                let gone: Vec<T> = gone.map(|(_, object)| object).collect();
                self.changed |= !gone.is_empty() || !self.listed;
                self.listed = true;
                (gone, None)
            }
        }
    }

    fn insert(&mut self, object: T, listed: bool) -> (Vec<T>, Option<(T, bool)>) {
        let before = self.objects.insert(object.object_name(), object.clone());
        if before.as_ref() == Some(&object) {
            return (Vec::new(), None);
        }
        self.changed = true;
        (before.into_iter().collect(), Some((object, listed)))
    }
}

/// Everything the API told.
#[derive(Debug)]
pub(super) struct Tables {
    pods: Table<PodRecord>,
    services: Table<Service>,
    slices: Table<SliceRecord>,
    nodes: Table<Arc<Node>>,
    /// A watch each, so a table each.
    masquerade: [Table<MasqueradeRecord>; CONFIG_MAPS.len()],
    addresses: Addresses,
    /// Where the agent's own DaemonSet is.
    namespace: String,
    agents: Arc<Agents>,
    inventory: Inventory,
}

impl Tables {
    pub(super) fn new(overrides: Overrides) -> Self {
        Self {
            pods: Table::default(),
            services: Table::default(),
            slices: Table::default(),
            nodes: Table::default(),
            masquerade: Default::default(),
            addresses: Addresses::default(),
            namespace: String::new(),
            agents: Arc::default(),
            inventory: Inventory::new(overrides),
        }
    }

    /// The same, told in which namespace the agent's own DaemonSet is.
    pub(super) fn within(self, namespace: &str) -> Self {
        let namespace = namespace.to_owned();
        Self { namespace, ..self }
    }

    /// The agents as of the newest inventory; the same `Arc` until one comes, goes or moves.
    pub(super) fn agents(&self) -> &Arc<Agents> {
        &self.agents
    }

    /// Takes one change in.
    pub(super) fn apply(&mut self, update: Update, now: SystemTime) {
        match update {
            Update::Pod(change) => {
                let (gone, current) = self.pods.apply(change);
                for old in gone {
                    // The same pod with other labels keeps its addresses, and its time with them.
                    let same = current
                        .as_ref()
                        .filter(|(new, _)| new.pod.uid == old.pod.uid);
                    let kept = same.map_or(&[][..], |(new, _)| &new.pod.ips);
                    self.addresses.release(&old.pod, kept, now);
                }
                if let Some((record, listed)) = current {
                    self.addresses.apply(&record, listed, now);
                }
            }
            Update::Service(change) => drop(self.services.apply(change)),
            Update::Slice(change) => drop(self.slices.apply(change)),
            Update::Node(change) => drop(self.nodes.apply(change)),
            Update::Masquerade(which, change) => {
                let Some(table) = self.masquerade.get_mut(which) else {
                    return;
                };
                let (_, current) = table.apply(change);
                if let Some((
                    MasqueradeRecord {
                        rules: Err(why), ..
                    },
                    _,
                )) = current
                {
                    tracing::warn!(
                        why,
                        "masquerade configuration not understood: no translation is judged by it"
                    );
                }
            }
        }
    }

    /// Forgets pods that are gone for long.
    pub(super) fn expire(&mut self, now: SystemTime) {
        self.pods.changed |= self.addresses.expire(now);
    }

    /// Whether [`Tables::build`] would give another inventory than the last time.
    pub(super) fn is_changed(&self) -> bool {
        self.pods.changed
            || self.services.changed
            || self.slices.changed
            || self.nodes.changed
            || self.masquerade.iter().any(|table| table.changed)
    }

    /// The inventory as of now; parts that did not change are shared with the one before.
    pub(super) fn build(&mut self) -> Arc<Inventory> {
        if std::mem::take(&mut self.pods.changed) {
            self.inventory.addresses = Arc::new(self.addresses.clone());
            self.inventory.host_network = Arc::new(self.host_network());
            let agents = peers::agents(self.pods.objects.values(), &self.namespace);
            if agents != *self.agents {
                self.agents = Arc::new(agents);
            }
        }
        let services = std::mem::take(&mut self.services.changed);
        if std::mem::take(&mut self.slices.changed) || services {
            let all = Services::build(self.services.objects.values(), self.slices.objects.values());
            self.inventory.services = Arc::new(all);
        }
        if std::mem::take(&mut self.nodes.changed) {
            self.inventory.nodes = Arc::new(Nodes::build(self.nodes.objects.values()));
        }
        if self.masquerade.iter().any(|table| table.changed) {
            self.unite_masquerade();
        }
        self.inventory.counts = [
            self.pods.objects.len(),
            self.services.objects.len(),
            self.slices.objects.len(),
            self.nodes.objects.len(),
            self.masquerade
                .iter()
                .map(|table| table.objects.len())
                .sum(),
        ];
        self.inventory.listed = [
            self.pods.listed,
            self.services.listed,
            self.slices.listed,
            self.nodes.listed,
            self.masquerade.iter().all(|table| table.listed),
        ];
        Arc::new(self.inventory.clone())
    }

    fn host_network(&self) -> HashMap<String, u32> {
        let mut counts = HashMap::new();
        let pods = self.pods.objects.values();
        for record in pods.filter(|record| record.host_network && !record.finished) {
            *counts.entry(record.pod.node.clone()).or_default() += 1;
        }
        counts
    }

    fn unite_masquerade(&mut self) {
        let mut listed = true;
        for table in &mut self.masquerade {
            table.changed = false;
            listed &= table.listed;
        }
        let records = self
            .masquerade
            .iter()
            .flat_map(|table| table.objects.values());
        let flags = &self.inventory.overrides.non_masquerade;
        self.inventory.masquerade = Arc::new(masquerade::unite(flags, records, listed));
    }
}
