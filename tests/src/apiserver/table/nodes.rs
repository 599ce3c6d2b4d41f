//! The columns of nodes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::age;
use super::{Column, Printer, joined, text, wide};
use crate::apiserver::object;

pub(super) const PRINTER: Printer = Printer {
    columns: &COLUMNS,
    cells,
};

const COLUMNS: [Column; 10] = [
    text("Name"),
    text("Status"),
    text("Roles"),
    text("Age"),
    text("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |field: &str| match object::text(node, &format!("/status/nodeInfo/{field}")) {
        "" => json!("<unknown>"),
        given => json!(given),
    };
    vec![
        json!(object::name(node)),
        json!(status(node)),
        roles(node),
        json!(age(node, now)),
        json!(object::text(node, "/status/nodeInfo/kubeletVersion")),
        address(node, "InternalIP"),
        address(node, "ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(node: &Value) -> String {
    let mut conditions = object::list(node, "/status/conditions").iter();
    let ready = conditions.find(|c| c["type"] == "Ready");
    let word = match ready.map(|c| object::text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    match node.pointer("/spec/unschedulable") {
        Some(Value::Bool(true)) => format!("{word},SchedulingDisabled"),
        _ => word.to_owned(),
    }
}

fn roles(node: &Value) -> Value {
    let labels = object::map(node, "/metadata/labels");
    let role = |(label, value): (&String, &Value)| {
        let role = label.strip_prefix("node-role.kubernetes.io/");
        let old = || {
            (label == "kubernetes.io/role")
                .then(|| value.as_str())
                .flatten()
        };
        role.or_else(old)
            .filter(|r| !r.is_empty())
            .map(str::to_owned)
    };
    // A role may be told by both kinds of label.
    joined(
        labels
            .into_iter()
            .flatten()
            .filter_map(role)
            .collect::<BTreeSet<_>>(),
    )
}

fn address(node: &Value, wanted: &str) -> Value {
    let mut addresses = object::list(node, "/status/addresses").iter();
    let found = addresses.find(|a| a["type"] == wanted);
    json!(found.map_or("<none>", |a| object::text(a, "/address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cordoned_node_with_a_role() {
        let node = json!({
            "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/agent": "",
                                                 "kubernetes.io/role": "agent"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "addresses": [{"type": "InternalIP", "address": "10.224.0.4"}],
                       "nodeInfo": {"kubeletVersion": "v1.32.4"}},
        });
        let row = cells(&node, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "Ready,SchedulingDisabled");
        assert_eq!((&row[2], &row[4]), (&json!("agent"), &json!("v1.32.4")));
        assert_eq!((&row[5], &row[6]), (&json!("10.224.0.4"), &json!("<none>")));
    }
}
