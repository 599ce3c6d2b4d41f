//! The columns of Deployments, ReplicaSets and DaemonSets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::age;
use super::{Column, Printer, joined, labels, number, selector, text, wide};
use crate::apiserver::object;

pub(super) const DEPLOYMENTS: Printer = Printer {
    columns: &DEPLOYMENT,
    cells: deployment,
};
pub(super) const REPLICA_SETS: Printer = Printer {
    columns: &REPLICA_SET,
    cells: replica_set,
};
pub(super) const DAEMON_SETS: Printer = Printer {
    columns: &DAEMON_SET,
    cells: daemon_set,
};

const DEPLOYMENT: [Column; 8] = [
    text("Name"),
    text("Ready"),
    text("Up-to-date"),
    text("Available"),
    text("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

const REPLICA_SET: [Column; 8] = [
    text("Name"),
    number("Desired"),
    number("Current"),
    number("Ready"),
    text("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

const DAEMON_SET: [Column; 11] = [
    text("Name"),
    number("Desired"),
    number("Current"),
    number("Ready"),
    number("Up-to-date"),
    number("Available"),
    text("Node Selector"),
    text("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |field: &str| object::number(object, &format!("/status/{field}"));
    let mut row = vec![
        json!(object::name(object)),
        json!(format!("{}/{}", count("readyReplicas"), desired(object))),
        json!(count("updatedReplicas")),
        json!(count("availableReplicas")),
        json!(age(object, now)),
    ];
    row.extend(template(object));
    row
}

fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut row = vec![
        json!(object::name(object)),
        json!(desired(object)),
        json!(object::number(object, "/status/replicas")),
        json!(object::number(object, "/status/readyReplicas")),
        json!(age(object, now)),
    ];
    row.extend(template(object));
    row
}

fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut row = vec![json!(object::name(object))];
    row.extend(
        [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ]
        .map(|field| json!(object::number(object, &format!("/status/{field}")))),
    );
    row.push(labels(object, "/spec/template/spec/nodeSelector"));
    row.push(json!(age(object, now)));
    row.extend(template(object));
    row
}

/// Replicas asked for; one where unset (`SetDefaults_Deployment`).
fn desired(object: &Value) -> i64 {
    object
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(1)
}

/// Containers, images and selector of a pod template.
fn template(object: &Value) -> [Value; 3] {
    let containers = object::list(object, "/spec/template/spec/containers");
    let each = |field: &str| {
        containers
            .iter()
            .map(|c| object::text(c, field).to_owned())
            .collect()
    };
    let (names, images): (Vec<String>, Vec<String>) = (each("/name"), each("/image"));
    [
        joined(names),
        joined(images),
        selector(object, "/spec/selector"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment() {
        let object = json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
        });
        let row = deployment(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "2/3");
        assert_eq!(row[5..], [json!("c"), json!("i:1"), json!("app=web")]);
    }
}
