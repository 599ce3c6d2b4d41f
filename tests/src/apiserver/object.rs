//! Reading and stamping the parts of an object that every kind has.

use jiff::{Timestamp, Unit};
use serde_json::{Map, Value};

use super::kinds::{self, Kind};
use super::status::Status;

/// A string at a JSON pointer, or the empty string.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A number at a JSON pointer, or zero.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

/// A list at a JSON pointer, or an empty one.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A map at a JSON pointer.
pub fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`, empty where the object has none.
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `metadata.resourceVersion`, empty where the object has none.
pub fn version(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}

/// The kind that an object says it is.
///
/// # Errors
/// 400 where `apiVersion` or `kind` is missing or not served.
pub fn kind_of(object: &Value) -> Result<&'static Kind, Status> {
    let (api_version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
    kinds::by_object(api_version, kind).ok_or_else(|| {
        Status::bad_request(format!(
            "object {:?} has apiVersion {api_version:?} and kind {kind:?}, which this server does \
             not serve; use one that /api/v1 or /apis lists",
            name(object)
        ))
    })
}

/// `metadata` as a map to write to, made where it is missing.
///
/// # Errors
/// 400 where the object or its metadata is not a map.
pub fn metadata_mut(object: &mut Value) -> Result<&mut Map<String, Value>, Status> {
    object
        .as_object_mut()
        .map(|o| {
            o.entry("metadata")
                .or_insert_with(|| Value::Object(Map::new()))
        })
        .and_then(Value::as_object_mut)
        .ok_or_else(|| Status::bad_request("an object must be a JSON map with a metadata map"))
}

/// A copy that carries another `metadata.resourceVersion`.
pub fn with_version(object: &Value, version: u64) -> Value {
    let mut copy = object.clone();
    if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), version.to_string().into());
    }
    copy
}

/// A copy without `metadata.resourceVersion`, to compare two states of an object.
pub fn without_version(object: &Value) -> Value {
    let mut copy = object.clone();
    if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    copy
}

/// Now, as `metadata` times are written: RFC 3339 in UTC with whole seconds.
pub fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

/// Just the metadata of an object, for clients that ask for `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    serde_json::json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}
