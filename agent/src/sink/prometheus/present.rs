//! What the cluster has now, by the names that series carry: the series of what is gone end.

use std::collections::HashSet;

use ahash::RandomState;

use super::labels::FlowLabels;
use crate::cluster::Inventory;
use crate::flow::{ObjectName, Pod};

/// Namespace, workload and pod of an end; empty where the label is not among those chosen, or the
/// end has none.
pub(super) type End = [String; 3];

/// Names of pods and services that are there, by their hashes: there may be very many, and should
/// two names have the same, a series that could end goes on.
#[derive(Debug, Default)]
pub struct Present {
    labels: FlowLabels,
    hasher: RandomState,
    /// Names that the two ends of a flow can have.
    ends: [HashSet<u64>; 2],
    pods: HashSet<u64>,
    services: HashSet<u64>,
}

impl Present {
    /// None as long as the API has not told everything: what it has not told of yet is not gone.
    pub(super) fn of(inventory: &Inventory, labels: &FlowLabels) -> Option<Self> {
        if !inventory.is_complete() {
            return None;
        }
        let mut present = Self::new(labels);
        for pod in inventory.pods() {
            present.add_pod(pod);
        }
        for service in inventory.services() {
            present.add_service(&service.name);
        }
        Some(present)
    }

    /// Nothing is there.
    pub(super) fn new(labels: &FlowLabels) -> Self {
        Self {
            labels: labels.clone(),
            ..Self::default()
        }
    }

    pub(super) fn add_pod(&mut self, pod: &Pod) {
        for (end, names) in self.ends.iter_mut().enumerate() {
            names.insert(self.hasher.hash_one(self.labels.of_pod(end, pod)));
        }
        self.pods.insert(self.hasher.hash_one(&pod.name));
    }

    /// A service may be a flow's end itself, when nothing answers for it.
    pub(super) fn add_service(&mut self, service: &ObjectName) {
        for (end, names) in self.ends.iter_mut().enumerate() {
            let name = self.labels.of_namespace(end, &service.namespace);
            names.insert(self.hasher.hash_one(name));
        }
        self.services.insert(self.hasher.hash_one(service));
    }

    /// Whether both ends that label values name are there; the first two values are no names.
    pub(super) fn has_flow(&self, values: &[&str]) -> bool {
        let ends = self.labels.ends(values.get(2..).unwrap_or_default());
        let is_there = |(end, names): (End, &HashSet<u64>)| {
            end.iter().all(String::is_empty) || names.contains(&self.hasher.hash_one(&end))
        };
        ends.into_iter().zip(&self.ends).all(is_there)
    }

    /// Whether a service is there: its namespace and name are the first two values.
    pub(super) fn has_service(&self, values: &[&str]) -> bool {
        named(values).is_none_or(|name| self.services.contains(&self.hasher.hash_one(&name)))
    }

    /// Whether the target of a probe is there: a service or pod by the second and third value, or
    /// the node itself, which has no namespace.
    pub(super) fn has_target(&self, values: &[&str]) -> bool {
        let name = named(values.get(1..).unwrap_or_default());
        name.is_none_or(|name| {
            let hash = self.hasher.hash_one(&name);
            name.namespace.is_empty() || self.services.contains(&hash) || self.pods.contains(&hash)
        })
    }
}

fn named(values: &[&str]) -> Option<ObjectName> {
    let [namespace, name, ..] = values else {
        return None;
    };
    Some(ObjectName {
        namespace: (*namespace).to_owned(),
        name: (*name).to_owned(),
    })
}
