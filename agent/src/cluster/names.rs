//! What the records of many objects have in common is kept once: names of nodes and ports, labels
//! (the replicas of a workload have the same), workloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::flow::Workload;

use super::intern::Interner;
use super::trim::{PodRecord, SliceRecord};

/// Everything that records share.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Interner<str>,
    labels: Interner<BTreeMap<String, String>>,
    workloads: Interner<Workload>,
}

impl Names {
    /// Makes a pod's record share. One that others have already stays as it is.
    pub(super) fn of_pod(&mut self, record: &mut PodRecord) {
        let Some(pod) = Arc::get_mut(&mut record.pod) else {
            return;
        };
        pod.node = self.texts.one(&pod.node);
        pod.labels = self.labels.one(&pod.labels);
        if let Some(workload) = &mut pod.workload {
            *workload = self.workloads.one(workload);
        }
    }

    /// Makes a slice's record share.
    pub(super) fn of_slice(&mut self, record: &mut SliceRecord) {
        for backend in Arc::get_mut(&mut record.backends).unwrap_or_default() {
            backend.port_name = self.texts.one(&backend.port_name);
            if let Some(node) = &mut backend.node {
                *node = self.texts.one(node);
            }
        }
        for pod in record.targets.iter_mut().filter_map(Arc::get_mut) {
            pod.node = self.texts.one(&pod.node);
            pod.labels = self.labels.one(&pod.labels);
        }
    }
}
