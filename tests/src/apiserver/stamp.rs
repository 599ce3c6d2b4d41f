//! What a write makes of the object it is given: a key, an identity, and the parts it may not
//! touch kept.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::defaults;
use super::kinds::Kind;
use super::object::{self, metadata_mut};
use super::status::Status;
use super::store::Key;

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything, status too: for objects put into the store from inside the process.
    Whole,
    /// Everything but the status, where the kind has a status subresource.
    Main,
    /// Only the status.
    Status,
}

/// Checks what an object says of itself against the path, and gives its key.
///
/// # Errors
/// 400 where object and path disagree, 422 for a name that cannot be one.
pub fn address(kind: &Kind, namespace: &str, mut object: Value) -> Result<(Key, Value), Status> {
    let (api_version, kind_name) = (
        object::text(&object, "/apiVersion"),
        object::text(&object, "/kind"),
    );
    if kind_name != kind.kind || api_version != kind.api_version() {
        return Err(Status::bad_request(format!(
            "the object provided is {api_version:?} {kind_name:?}, the path takes {:?} {:?}",
            kind.api_version(),
            kind.kind
        )));
    }
    let name = object::name(&object).to_owned();
    if name.is_empty() || name.contains(['/', '%']) {
        return Err(Status::invalid(format!(
            "{} {name:?} is invalid: metadata.name: Required value: a name without / and %",
            kind.kind
        )));
    }
    let given = object::namespace(&object);
    if !kind.namespaced {
        metadata_mut(&mut object)?.remove("namespace");
    } else if given.is_empty() {
        metadata_mut(&mut object)?.insert("namespace".to_owned(), namespace.into());
    } else if given != namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the \
             request: {given:?} and {namespace:?}"
        )));
    }
    Ok(((namespace.to_owned(), name), object))
}

/// A new object with its identity.
///
/// # Errors
/// 400 where the object is no map with metadata.
pub fn born(kind: &Kind, mut object: Value, version: u64) -> Result<Value, Status> {
    let metadata = metadata_mut(&mut object)?;
    give(metadata, "uid", || uid(version).into());
    // A time that the lab gives stays, so that ages can be tested.
    give(metadata, "creationTimestamp", || object::now().into());
    if kind.status {
        give(metadata, "generation", || json!(1));
    }
    defaults::fill(kind, &mut object);
    Ok(object)
}

/// Sets a field that is missing; clients in Go send null for one that they do not set.
fn give(metadata: &mut Map<String, Value>, field: &str, value: impl FnOnce() -> Value) {
    let slot = metadata.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value();
    }
}

/// A new state for an existing object, which keeps its identity and the parts not written.
///
/// # Errors
/// 400 where the object is no map with metadata.
pub fn replaced(
    kind: &Kind,
    current: &Value,
    mut next: Value,
    part: Part,
) -> Result<Value, Status> {
    match part {
        Part::Status => {
            let status = next.get("status").cloned();
            next = current.clone();
            put(&mut next, "status", status);
        }
        Part::Main if kind.status => put(&mut next, "status", current.get("status").cloned()),
        Part::Main | Part::Whole => {}
    }
    metadata_mut(&mut next)?;
    defaults::fill(kind, &mut next);
    let generation = object::number(current, "/metadata/generation");
    let changed = next.get("spec") != current.get("spec");
    let metadata = metadata_mut(&mut next)?;
    for field in ["uid", "creationTimestamp"] {
        if let Some(value) = current.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    if generation > 0 {
        metadata.insert(
            "generation".to_owned(),
            json!(generation + i64::from(changed)),
        );
    }
    Ok(next)
}

/// Sets or removes a field of the object.
pub fn put(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(fields) = object.as_object_mut() {
        match value {
            Some(value) => fields.insert(field.to_owned(), value),
            None => fields.remove(field),
        };
    }
}

/// An identifier in the form of a UUID, from the time and the store's version: unique over
/// restarts of the lab too.
fn uid(version: u64) -> String {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let hex = format!("{:016x}", nanos as u64);
    format!(
        "{}-{}-4{}-8000-{version:012x}",
        &hex[..8],
        &hex[8..12],
        &hex[13..]
    )
}
