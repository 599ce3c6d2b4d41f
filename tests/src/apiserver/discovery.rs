//! Discovery: which groups, versions and resources there are.

use serde_json::{Value, json};

use super::kinds::{KINDS, Kind};

/// The Kubernetes version that this server says it has; kubectl compares it with its own.
pub const VERSION: &str = "v1.32.4";

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": "32",
        "gitVersion": VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/`: the paths that there are.
pub fn root() -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, version) in groups() {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/{version}"));
    }
    paths.extend(["/healthz", "/livez", "/readyz", "/version"].map(str::to_owned));
    json!({"paths": paths})
}

/// `/api`: the versions of the core group.
pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`: the named groups.
pub fn group_list() -> Value {
    let groups: Vec<Value> = groups()
        .into_iter()
        .map(|(g, v)| group_body(g, v))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`, none where there is no such group.
pub fn group(name: &str) -> Option<Value> {
    let (name, version) = groups().into_iter().find(|(g, _)| *g == name)?;
    let mut body = group_body(name, version);
    body["kind"] = "APIGroup".into();
    body["apiVersion"] = "v1".into();
    Some(body)
}

/// `/api/v1` (with the empty group) or `/apis/<group>/<version>`: the resources of a group.
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = KINDS
        .iter()
        .filter(|k| k.group == group && k.version == version)
        .collect();
    let group_version = kinds.first()?.api_version();
    let resources: Vec<Value> = kinds.into_iter().flat_map(resource).collect();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups: Vec<_> = KINDS
        .iter()
        .filter(|k| !k.group.is_empty())
        .map(|k| (k.group, k.version))
        .collect();
    groups.dedup();
    groups
}

fn group_body(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resource(kind: &Kind) -> Vec<Value> {
    let mut resource = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    });
    if !kind.short.is_empty() {
        resource["shortNames"] = json!(kind.short);
    }
    if kind.in_all {
        resource["categories"] = json!(["all"]);
    }
    let mut resources = vec![resource];
    if kind.status {
        resources.push(json!({
            "name": format!("{}/status", kind.plural),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": ["get", "patch", "update"],
        }));
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_resources_agree() {
        let listed = group_list();
        let groups: Vec<&str> = listed["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|g| g["name"].as_str().unwrap())
            .collect();
        assert_eq!(groups, ["apps", "discovery.k8s.io", "networking.k8s.io"]);
        for name in groups {
            assert_eq!(group(name).unwrap()["kind"], "APIGroup");
            assert!(resources(name, "v1").is_some());
        }
        let core = resources("", "v1").unwrap();
        let names: Vec<&str> = core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&"pods") && names.contains(&"pods/status"));
        assert!(resources("apps", "v1beta1").is_none() && group("batch").is_none());
    }
}
