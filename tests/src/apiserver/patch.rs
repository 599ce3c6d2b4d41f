//! PATCH: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and Kubernetes' strategic merge.

use serde_json::{Map, Value};

use super::status::Status;

/// Media types that a PATCH body may have.
pub const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
                            application/strategic-merge-patch+json";

/// Applies a patch of the given media type (without parameters) to an object.
///
/// # Errors
/// 415 for a media type not taken (server-side apply too), 400 or 422 for a patch that cannot be
/// read or applied.
pub fn apply(media_type: &str, object: &Value, body: &[u8]) -> Result<Value, Status> {
    let unreadable =
        |e: serde_json::Error| Status::bad_request(format!("the patch cannot be read: {e}"));
    let mut patched = object.clone();
    match media_type {
        "application/merge-patch+json" => {
            let patch: Value = serde_json::from_slice(body).map_err(unreadable)?;
            json_patch::merge(&mut patched, &patch);
        }
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_slice(body).map_err(unreadable)?;
            json_patch::patch(&mut patched, &patch)
                .map_err(|e| Status::invalid(format!("the patch cannot be applied: {e}")))?;
        }
        "application/strategic-merge-patch+json" => {
            let Value::Object(patch) = serde_json::from_slice(body).map_err(unreadable)? else {
                return Err(Status::bad_request("a strategic merge patch is a JSON map"));
            };
            merge_maps(&mut patched, &patch);
        }
        other => return Err(Status::unsupported_media_type(other, ACCEPTED)),
    }
    Ok(patched)
}

/// Lists that merge element by element, and the field that tells elements apart
/// (`patchMergeKey` in the Kubernetes API types). Other lists are replaced.
fn merge_key(list: &str, element: &Map<String, Value>) -> Option<&'static str> {
    match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets" => Some("name"),
        "ports" if element.contains_key("containerPort") => Some("containerPort"),
        // A Service's ports; those of EndpointSlices and Endpoints have no merge key.
        "ports" if element.contains_key("targetPort") || element.contains_key("nodePort") => {
            Some("port")
        }
        "conditions" | "addresses" => Some("type"),
        "volumeMounts" => Some("mountPath"),
        "podIPs" | "hostIPs" | "hostAliases" => Some("ip"),
        "ownerReferences" => Some("uid"),
        _ => None,
    }
}

fn merge_maps(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else {
        return;
    };
    if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
        fields.clear();
    }
    if let Some(Value::Array(kept)) = patch.get("$retainKeys") {
        fields.retain(|field, _| kept.iter().any(|k| k == field));
    }
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (fields.get_mut(list), value) {
                items.retain(|item| !gone.contains(item));
            }
        } else if field.starts_with('$') {
            // $patch and $retainKeys are done; $setElementOrder only orders.
        } else if value.is_null() {
            fields.remove(field);
        } else {
            merge_field(field, fields.entry(field).or_insert(Value::Null), value);
        }
    }
}

fn merge_field(field: &str, target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => merge_maps(target, patch),
        Value::Array(elements) => {
            let key = elements
                .iter()
                .find_map(|e| merge_key(field, e.as_object()?));
            match (key, target.as_array_mut()) {
                (Some(key), Some(list)) => merge_list(key, list, elements),
                (Some(key), None) => {
                    let mut list = Vec::new();
                    merge_list(key, &mut list, elements);
                    *target = Value::Array(list);
                }
                (None, _) => *target = patch.clone(),
            }
        }
        _ => *target = patch.clone(),
    }
}

fn merge_list(key: &str, list: &mut Vec<Value>, elements: &[Value]) {
    if elements.iter().any(|e| e["$patch"] == "replace") {
        list.clear();
    }
    for element in elements {
        let Some(patch) = element.as_object() else {
            continue;
        };
        let same = |item: &Value| item.get(key) == patch.get(key);
        match patch.get("$patch").and_then(Value::as_str) {
            Some("delete") => list.retain(|item| !same(item)),
            Some("replace") if patch.len() == 1 => {}
            _ => match list.iter().position(same) {
                Some(at) => merge_maps(&mut list[at], patch),
                None => {
                    let mut fresh = Value::Null;
                    merge_maps(&mut fresh, patch);
                    list.push(fresh);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn strategic(object: Value, patch: Value) -> Value {
        let body = patch.to_string();
        apply(
            "application/strategic-merge-patch+json",
            &object,
            body.as_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn merge_and_json_patch() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let merged = apply(
            "application/merge-patch+json",
            &object,
            br#"{"metadata":{"labels":{"a":null,"c":"3"}}}"#,
        );
        assert_eq!(
            merged.unwrap()["metadata"]["labels"],
            json!({"b": "2", "c": "3"})
        );
        let op = br#"[{"op":"replace","path":"/metadata/labels/a","value":"9"}]"#;
        let patched = apply("application/json-patch+json", &object, op).unwrap();
        assert_eq!(patched["metadata"]["labels"]["a"], "9");
        let missing = br#"[{"op":"replace","path":"/spec/x","value":"9"}]"#;
        let code = |t: &str, b: &[u8]| apply(t, &object, b).unwrap_err().code;
        assert_eq!(code("application/json-patch+json", missing), 422);
        assert_eq!(code("application/merge-patch+json", b"{"), 400);
        assert_eq!(code("application/apply-patch+yaml", b"{}"), 415);
        assert_eq!(code("application/strategic-merge-patch+json", b"[]"), 400);
    }

    #[test]
    fn strategic_merges_lists_by_their_key() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"},
                           {"name": "c"}],
        }});
        let expected = json!([{"name": "a", "image": "2"}, {"name": "c"}]);
        assert_eq!(strategic(pod, patch)["spec"]["containers"], expected);
    }

    #[test]
    fn strategic_replaces_other_lists_and_follows_directives() {
        let object = json!({"args": ["a", "b"], "m": {"x": 1, "y": 2}, "f": ["p", "q"]});
        let patch = json!({
            "args": ["c"], "m": {"$patch": "replace", "z": 3},
            "$deleteFromPrimitiveList/f": ["p"],
        });
        assert_eq!(
            strategic(object, patch),
            json!({"args": ["c"], "m": {"z": 3}, "f": ["q"]})
        );
    }
}
