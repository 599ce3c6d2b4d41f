//! Counts of what was asked, for tests to look at and to wait on.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// What has been counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    requests: BTreeMap<(String, String), u64>,
    watches: BTreeMap<String, u64>,
    unauthorized: u64,
}

impl Counts {
    /// Requests of a verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`) on a resource (its plural, or the path where it is none), those that a
    /// fault switch or a refusal answered included.
    pub fn requests(&self, verb: &str, resource: &str) -> u64 {
        self.requests
            .get(&(verb.to_owned(), resource.to_owned()))
            .copied()
            .unwrap_or(0)
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// Requests per verb and resource, in alphabetical order.
    pub fn all(&self) -> &BTreeMap<(String, String), u64> {
        &self.requests
    }

    /// Watches of a resource that are open now.
    pub fn open_watches(&self, resource: &str) -> u64 {
        self.watches.get(resource).copied().unwrap_or(0)
    }

    /// Requests that came without the token.
    pub fn unauthorized(&self) -> u64 {
        self.unauthorized
    }
}

/// The counters of one server; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    counts: Arc<watch::Sender<Counts>>,
}

impl Counters {
    /// The counts as they are now.
    pub fn now(&self) -> Counts {
        self.counts.borrow().clone()
    }

    /// Waits until the counts satisfy a condition; bound it with a timeout.
    pub async fn wait_until(&self, condition: impl FnMut(&Counts) -> bool) -> Counts {
        let mut receiver = self.counts.subscribe();
        match receiver.wait_for(condition).await {
            Ok(counts) => counts.clone(),
            // Only where the sender is gone, which `self` keeps.
            Err(_) => self.now(),
        }
    }

    pub(super) fn request(&self, verb: &str, resource: &str) {
        self.counts.send_modify(|counts| {
            *counts
                .requests
                .entry((verb.to_owned(), resource.to_owned()))
                .or_default() += 1;
        });
    }

    pub(super) fn refused(&self) {
        self.counts.send_modify(|counts| counts.unauthorized += 1);
    }

    /// Counts an open watch until the guard is dropped.
    pub(super) fn watch_opened(&self, resource: &'static str) -> OpenWatch {
        self.counts
            .send_modify(|c| *c.watches.entry(resource.to_owned()).or_default() += 1);
        OpenWatch {
            counters: self.clone(),
            resource,
        }
    }
}

/// One open watch.
#[derive(Debug)]
pub(super) struct OpenWatch {
    counters: Counters,
    resource: &'static str,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.counters.counts.send_modify(|counts| {
            if let Some(open) = counts.watches.get_mut(self.resource) {
                *open = open.saturating_sub(1);
            }
        });
    }
}
