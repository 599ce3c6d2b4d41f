//! The versions of a store: a bounded list of the changes that led to the newest one.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::kinds::Kind;
use super::store::{Key, Objects};

/// Changes kept for watches and chunked lists until told otherwise.
const DEFAULT_CAPACITY: usize = 4096;

/// One committed write.
#[derive(Debug)]
pub struct Change {
    /// The store's version after this write.
    pub version: u64,
    /// The kind of the object written.
    pub kind: &'static Kind,
    /// Which object was written.
    pub key: Key,
    /// The object before, none where it was created.
    pub before: Option<Arc<Value>>,
    /// The object after, none where it was deleted.
    pub after: Option<Arc<Value>>,
}

/// A version that is no longer (or not yet) in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The history before this version has been compacted.
    Compacted,
    /// The store has only reached `current`.
    Ahead {
        /// The newest version there is.
        current: u64,
    },
}

/// The newest version and the changes before it.
#[derive(Debug)]
pub(super) struct History {
    version: u64,
    /// Changes up to and including this version are no longer kept.
    compacted: u64,
    capacity: usize,
    changes: VecDeque<Arc<Change>>,
}

impl Default for History {
    fn default() -> Self {
        // Version 0 means "any" in requests, so the first one is 1, as in etcd.
        Self {
            version: 1,
            compacted: 0,
            capacity: DEFAULT_CAPACITY,
            changes: VecDeque::new(),
        }
    }
}

impl History {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Adds a change, whose version is the next one.
    pub(super) fn record(&mut self, change: Arc<Change>) {
        self.version = change.version;
        self.changes.push_back(change);
        self.trim();
    }

    pub(super) fn compact(&mut self) {
        self.changes.clear();
        self.compacted = self.version;
    }

    pub(super) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.trim();
    }

    fn trim(&mut self) {
        while self.changes.len() > self.capacity {
            if let Some(oldest) = self.changes.pop_front() {
                self.compacted = oldest.version;
            }
        }
    }

    /// The changes after a version, of all kinds, oldest first; none after one that is not there
    /// yet.
    pub(super) fn after(&self, version: u64) -> Result<Vec<Arc<Change>>, Missing> {
        if version < self.compacted {
            return Err(Missing::Compacted);
        }
        Ok(self
            .changes
            .iter()
            .filter(|c| c.version > version)
            .cloned()
            .collect())
    }

    /// Takes the newest objects of a kind back to what they were at a version.
    pub(super) fn rewind(
        &self,
        kind: &Kind,
        version: u64,
        objects: &mut Objects,
    ) -> Result<(), Missing> {
        if version > self.version {
            return Err(Missing::Ahead {
                current: self.version,
            });
        }
        for change in self
            .after(version)?
            .iter()
            .rev()
            .filter(|c| c.kind.plural == kind.plural)
        {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Ok(())
    }
}
