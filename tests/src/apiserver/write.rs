//! Create, update and delete with the rules of the real server: identity is given once, versions
//! guard against lost updates, and `status` has its own subresource.

use std::sync::Arc;

use serde_json::Value;

use super::kinds::{self, Kind};
use super::object::{self, metadata_mut};
use super::stamp::{Part, address, born, put, replaced};
use super::status::Status;
use super::store::{Key, Next, Store};

/// What a delete request may insist on.
#[derive(Debug, Clone, Default)]
pub struct Preconditions {
    /// The object's `metadata.uid`.
    pub uid: Option<String>,
    /// The object's `metadata.resourceVersion`.
    pub version: Option<String>,
}

const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl Store {
    /// Creates an object or replaces it, status and all, whatever its version; returns it as
    /// stored. A namespaced object without a namespace goes to `default`.
    ///
    /// # Errors
    /// 400 or 422 for an object of an unknown kind or without a name.
    pub fn apply(&self, object: Value) -> Result<Arc<Value>, Status> {
        let kind = object::kind_of(&object)?;
        let namespace = match object::namespace(&object) {
            _ if !kind.namespaced => String::new(),
            "" => "default".to_owned(),
            given => given.to_owned(),
        };
        let (key, mut object) = address(kind, &namespace, object)?;
        metadata_mut(&mut object)?.remove("resourceVersion");
        self.write(kind, &key, |current, version| match current {
            None => born(kind, object, version).map(Next::Put),
            Some(current) => replaced(kind, current, object, Part::Whole).map(Next::Put),
        })
    }

    /// Deletes an object by kind (as [`kinds::by_name`] takes it), namespace and name.
    ///
    /// # Errors
    /// 404 where there is no such kind or object.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<(), Status> {
        let kind = kinds::by_name(kind).ok_or_else(Status::no_such_path)?;
        let key = (namespace.to_owned(), name.to_owned());
        self.remove(kind, &key, &Preconditions::default()).map(drop)
    }

    /// Creates an object; `metadata.generateName` is honoured, the namespace must exist.
    ///
    /// # Errors
    /// 400, 404, 409 or 422 as the real server answers them.
    pub fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Value>, Status> {
        if kind.namespaced && self.get("namespaces", "", namespace).is_none() {
            return Err(Status::not_found(
                kinds::by_name("namespaces").unwrap_or(kind),
                namespace,
            ));
        }
        if !object::version(&object).is_empty() {
            let why = "resourceVersion should not be set on objects to be created";
            return Err(Status::bad_request(why));
        }
        let prefix = object::text(&object, "/metadata/generateName").to_owned();
        if object::name(&object).is_empty() && !prefix.is_empty() {
            let name = format!("{prefix}{:05x}", self.version() & 0xf_ffff);
            metadata_mut(&mut object)?.insert("name".to_owned(), name.into());
        }
        let (key, mut object) = address(kind, namespace, object)?;
        if kind.status {
            put(&mut object, "status", None);
        }
        for given_by_the_server in ["uid", "creationTimestamp", "generation"] {
            metadata_mut(&mut object)?.remove(given_by_the_server);
        }
        self.write(kind, &key, |current, version| match current {
            None => born(kind, object, version).map(Next::Put),
            Some(_) => Err(Status::already_exists(kind, &key.1)),
        })
    }

    /// Replaces an object, or one part of it, with what `change` makes of its current state. A
    /// `metadata.resourceVersion` in the result must be the current one.
    ///
    /// # Errors
    /// 404, 409, or what `change` answers.
    pub fn update(
        &self,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        change: impl FnOnce(&Value) -> Result<Value, Status>,
    ) -> Result<Arc<Value>, Status> {
        self.write(kind, key, |current, _| {
            let current = current.ok_or_else(|| Status::not_found(kind, &key.1))?;
            let (changed, next) = address(kind, &key.0, change(current)?)?;
            if changed != *key {
                let why = format!(
                    "the name of the object ({}) does not match the name on the URL \
                                   ({})",
                    changed.1, key.1
                );
                return Err(Status::bad_request(why));
            }
            for (field, now) in [
                ("resourceVersion", object::version(current)),
                ("uid", object::text(current, "/metadata/uid")),
            ] {
                let wanted = object::text(&next, &format!("/metadata/{field}"));
                if !wanted.is_empty() && wanted != now {
                    return Err(Status::conflict(kind, &key.1, MODIFIED));
                }
            }
            replaced(kind, current, next, part).map(Next::Put)
        })
    }

    /// Deletes an object; a namespace goes with everything in it. Returns what it last was.
    ///
    /// # Errors
    /// 404, or 409 where a precondition does not hold.
    pub fn remove(
        &self,
        kind: &'static Kind,
        key: &Key,
        only: &Preconditions,
    ) -> Result<Arc<Value>, Status> {
        let removed = self.write(kind, key, |current, _| {
            let current = current.ok_or_else(|| Status::not_found(kind, &key.1))?;
            for (wanted, now) in [
                (&only.uid, object::text(current, "/metadata/uid")),
                (&only.version, object::version(current)),
            ] {
                if let Some(wanted) = wanted
                    && wanted != now
                {
                    let why = format!(
                        "Precondition failed: {wanted} in precondition, {now} in \
                                       object meta"
                    );
                    return Err(Status::conflict(kind, &key.1, &why));
                }
            }
            Ok(Next::Remove)
        })?;
        if kind.plural == "namespaces" {
            self.empty_namespace(&key.1);
        }
        Ok(removed)
    }

    fn empty_namespace(&self, namespace: &str) {
        for kind in kinds::KINDS.iter().filter(|k| k.namespaced) {
            let Ok((_, objects)) = self.snapshot(kind, None) else {
                continue;
            };
            for key in objects.keys().filter(|key| key.0 == namespace) {
                // Somebody else may have deleted it since the snapshot: then it is gone as meant.
                let _ = self.remove(kind, key, &Preconditions::default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"x": 1},
               "status": {"podIP": "10.244.0.4"}})
    }

    fn store() -> Store {
        let store = Store::default();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}});
        store.apply(namespace).unwrap();
        store
    }

    #[test]
    fn identity_is_kept_and_generation_follows_the_spec() {
        let store = store();
        let first = store.apply(pod("a")).unwrap();
        assert_eq!(object::namespace(&first), "default");
        let mut changed = pod("a");
        changed["spec"]["x"] = json!(2);
        let second = store.apply(changed).unwrap();
        assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
        assert_eq!(second["metadata"]["generation"], 2);
        assert_ne!(object::version(&first), object::version(&second));
    }

    #[test]
    fn status_and_main_are_apart() {
        let store = store();
        let pods = kinds::by_name("pods").unwrap();
        let created = store.create(pods, "d", pod("a")).unwrap();
        assert_eq!(
            created["status"],
            json!({"phase": "Pending"}),
            "a POST carries no status"
        );
        let key = ("d".to_owned(), "a".to_owned());
        let with = |part| {
            store.update(pods, &key, part, |current| {
                let mut next = current.clone();
                next["spec"]["x"] = json!(7);
                next["status"]["podIP"] = json!("10.244.0.9");
                Ok(next)
            })
        };
        let main = with(Part::Main).unwrap();
        assert_eq!(
            (&main["spec"]["x"], main["status"].get("podIP")),
            (&json!(7), None)
        );
        let status = with(Part::Status).unwrap();
        assert_eq!(status["status"]["podIP"], "10.244.0.9");
    }

    #[test]
    fn a_stale_update_conflicts() {
        let store = store();
        let pods = kinds::by_name("pods").unwrap();
        let stale = store.create(pods, "d", pod("a")).unwrap();
        let key = ("d".to_owned(), "a".to_owned());
        let label = |from: &Value| {
            let mut next = from.clone();
            next["metadata"]["labels"] = json!({"n": object::version(from)});
            store.update(pods, &key, Part::Main, |_| Ok(next))
        };
        let fresh = label(&stale).unwrap();
        let refused = label(&stale).unwrap_err();
        assert_eq!((refused.code, refused.reason), (409, "Conflict"));
        label(&fresh).unwrap();
        let only = Preconditions {
            version: Some("1".to_owned()),
            ..Preconditions::default()
        };
        assert_eq!(store.remove(pods, &key, &only).unwrap_err().code, 409);
    }

    #[test]
    fn bad_objects_are_named() {
        let store = store();
        let pods = kinds::by_name("pods").unwrap();
        let code = |r: Result<Arc<Value>, Status>| r.unwrap_err().code;
        assert_eq!(code(store.create(pods, "nowhere", pod("a"))), 404);
        assert_eq!(code(store.create(pods, "d", pod(""))), 422);
        assert_eq!(code(store.apply(json!({"kind": "Pod"}))), 400);
        assert_eq!(code(store.apply(json!([]))), 400);
        let mut metadata = pod("a");
        metadata["metadata"] = json!("x");
        assert_eq!(code(store.apply(metadata)), 422);
        store.create(pods, "d", pod("a")).unwrap();
        assert_eq!(code(store.create(pods, "d", pod("a"))), 409);
    }

    #[test]
    fn a_namespace_takes_its_objects_along() {
        let store = store();
        let pods = kinds::by_name("pods").unwrap();
        store.create(pods, "d", pod("a")).unwrap();
        store.delete("ns", "", "d").unwrap();
        assert!(store.get("pods", "d", "a").is_none());
        assert_eq!(store.delete("ns", "", "d").unwrap_err().code, 404);
    }
}
