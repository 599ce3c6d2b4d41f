//! The objects, their versions, and a bounded history of changes, as etcd keeps them for the
//! real API server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::broadcast;

use super::history::{Change, History, Missing};
use super::kinds::{self, Kind};
use super::object;
use super::status::Status;

/// Namespace (empty for cluster-wide kinds) and name.
pub type Key = (String, String);

/// Objects of one kind, in key order.
pub type Objects = BTreeMap<Key, Arc<Value>>;

/// What a write makes of an object.
#[derive(Debug)]
pub enum Next {
    /// The object's new state.
    Put(Value),
    /// The object goes.
    Remove,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the objects that there are now, then their changes.
    Current,
    /// With changes from now on only.
    Now,
    /// With every change after this version.
    After(u64),
}

/// What a watch needs: the state or changes at its start, and then what follows without a gap.
#[derive(Debug)]
pub struct Subscription {
    /// Objects to announce first, for [`Start::Current`].
    pub initial: Vec<Arc<Value>>,
    /// Changes already in the history, of all kinds, oldest first.
    pub backlog: Vec<Arc<Change>>,
    /// Changes after the backlog, of all kinds.
    pub changes: broadcast::Receiver<Arc<Change>>,
    /// The store's version when the subscription was made.
    pub version: u64,
}

/// Changes that a watch may fall behind before it is told to list again.
const WATCH_BUFFER: usize = 4096;

/// The objects of one API server. All methods may be called from any thread.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    changes: broadcast::Sender<Arc<Change>>,
}

#[derive(Debug, Default)]
struct Inner {
    history: History,
    objects: BTreeMap<&'static str, Objects>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            changes: broadcast::Sender::new(WATCH_BUFFER),
        }
    }
}

impl Store {
    /// Locks the state. A panic elsewhere while it was held leaves no half-made write behind
    /// (see [`Store::write`]), so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest version: that of the last write.
    pub fn version(&self) -> u64 {
        self.lock().history.version()
    }

    /// Forgets the history: older versions can no longer be watched from or listed at.
    pub fn compact(&self) {
        self.lock().history.compact();
    }

    /// Bounds the history to so many changes, from now on.
    pub fn set_history(&self, changes: usize) {
        self.lock().history.set_capacity(changes);
    }

    /// An object by kind (as [`kinds::by_name`] takes it), namespace and name.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.read(kinds::by_name(kind)?, &key)
    }

    /// An object by its key.
    pub fn read(&self, kind: &Kind, key: &Key) -> Option<Arc<Value>> {
        self.lock().objects.get(kind.plural)?.get(key).cloned()
    }

    /// The objects of a kind at a version, or now, with the version that they are from.
    ///
    /// # Errors
    /// [`Missing`] where the history does not reach that version.
    pub fn snapshot(&self, kind: &Kind, at: Option<u64>) -> Result<(u64, Objects), Missing> {
        let inner = self.lock();
        let version = at.unwrap_or(inner.history.version());
        let mut objects = inner.objects.get(kind.plural).cloned().unwrap_or_default();
        inner.history.rewind(kind, version, &mut objects)?;
        Ok((version, objects))
    }

    /// Begins a watch of a kind.
    ///
    /// # Errors
    /// [`Missing::Compacted`] where changes after the start are no longer known. A start ahead of
    /// the store is no error: the changes up to it are passed over when they come.
    pub fn subscribe(&self, kind: &Kind, start: Start) -> Result<Subscription, Missing> {
        let inner = self.lock();
        let mut subscription = Subscription {
            initial: Vec::new(),
            backlog: Vec::new(),
            changes: self.changes.subscribe(),
            version: inner.history.version(),
        };
        match start {
            Start::Now => {}
            Start::Current => {
                let objects = inner.objects.get(kind.plural);
                subscription.initial = objects
                    .into_iter()
                    .flat_map(|o| o.values().cloned())
                    .collect();
            }
            Start::After(version) => subscription.backlog = inner.history.after(version)?,
        }
        Ok(subscription)
    }

    /// Changes one object: `decide` sees its current state and the version that the write will
    /// have. A new state equal to the current one is no write. Returns the object as it is
    /// afterwards; a removed one as it last was, with the version of its removal.
    ///
    /// # Errors
    /// Whatever `decide` answers; nothing is changed then.
    pub fn write(
        &self,
        kind: &'static Kind,
        key: &Key,
        decide: impl FnOnce(Option<&Value>, u64) -> Result<Next, Status>,
    ) -> Result<Arc<Value>, Status> {
        let mut inner = self.lock();
        let before = inner
            .objects
            .get(kind.plural)
            .and_then(|o| o.get(key))
            .cloned();
        let version = inner.history.version() + 1;
        let after = match (decide(before.as_deref(), version)?, &before) {
            (Next::Put(next), Some(before))
                if object::without_version(&next) == object::without_version(before) =>
            {
                return Ok(Arc::clone(before));
            }
            (Next::Put(next), _) => Some(Arc::new(object::with_version(&next, version))),
            (Next::Remove, Some(_)) => None,
            (Next::Remove, None) => return Err(Status::not_found(kind, &key.1)),
        };
        let objects = inner.objects.entry(kind.plural).or_default();
        let written = match (&after, &before) {
            (Some(after), _) => {
                objects.insert(key.clone(), Arc::clone(after));
                Arc::clone(after)
            }
            (None, before) => {
                objects.remove(key);
                let last = before.as_deref().cloned().unwrap_or_default();
                Arc::new(object::with_version(&last, version))
            }
        };
        let change = Arc::new(Change {
            version,
            kind,
            key: key.clone(),
            before,
            after,
        });
        inner.history.record(Arc::clone(&change));
        // Sent under the lock so that every receiver sees versions in order; that nobody
        // watches is no error.
        let _ = self.changes.send(change);
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"}})
    }

    #[test]
    fn snapshots_go_back_until_compaction() {
        let store = Store::default();
        let pods = kinds::by_name("pods").unwrap();
        store.apply(pod("a")).unwrap();
        let first = store.version();
        store.apply(pod("b")).unwrap();
        store.delete("pods", "d", "a").unwrap();
        let names = |at| -> Vec<String> {
            let (_, objects) = store.snapshot(pods, at).unwrap();
            objects.into_keys().map(|k| k.1).collect()
        };
        assert_eq!(names(Some(first)), ["a"]);
        assert_eq!(names(Some(first + 1)), ["a", "b"]);
        assert_eq!(names(None), ["b"]);
        assert!(matches!(
            store.snapshot(pods, Some(99)),
            Err(Missing::Ahead { .. })
        ));
        store.compact();
        assert_eq!(
            store.snapshot(pods, Some(first)).unwrap_err(),
            Missing::Compacted
        );
        assert!(store.subscribe(pods, Start::After(store.version())).is_ok());
        assert!(
            store
                .subscribe(pods, Start::After(store.version() - 1))
                .is_err()
        );
    }

    #[test]
    fn the_history_is_bounded() {
        let store = Store::default();
        let pods = kinds::by_name("pods").unwrap();
        store.set_history(2);
        let start = store.version();
        for name in ["a", "b", "c"] {
            store.apply(pod(name)).unwrap();
        }
        assert_eq!(
            store.subscribe(pods, Start::After(start)).unwrap_err(),
            Missing::Compacted
        );
        let kept = store.subscribe(pods, Start::After(start + 1)).unwrap();
        assert_eq!(kept.backlog.len(), 2);
    }

    #[test]
    fn an_unchanged_object_is_no_write() {
        let store = Store::default();
        store.apply(pod("a")).unwrap();
        let version = store.version();
        store.apply(pod("a")).unwrap();
        assert_eq!(store.version(), version);
    }
}
