//! The columns of pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::{age, since};
use super::{Column, Printer, or_none, text, wide};
use crate::apiserver::object;

pub(super) const PRINTER: Printer = Printer {
    columns: &COLUMNS,
    cells,
};

const COLUMNS: [Column; 9] = [
    text("Name"),
    text("Ready"),
    text("Status"),
    text("Restarts"),
    text("Age"),
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let statuses = object::list(pod, "/status/containerStatuses");
    let ready = statuses.iter().filter(|s| is_ready(s)).count();
    let total = object::list(pod, "/spec/containers").len();
    let ip = match object::list(pod, "/status/podIPs").first() {
        Some(first) => object::text(first, "/ip"),
        None => object::text(pod, "/status/podIP"),
    };
    vec![
        json!(object::name(pod)),
        json!(format!("{ready}/{total}")),
        json!(status(pod)),
        json!(restarts(statuses, now)),
        json!(age(pod, now)),
        or_none(ip),
        or_none(object::text(pod, "/spec/nodeName")),
        or_none(object::text(pod, "/status/nominatedNodeName")),
        json!(readiness_gates(pod)),
    ]
}

fn is_ready(status: &Value) -> bool {
    status["ready"] == true && status.pointer("/state/running").is_some()
}

/// What the real server's `printPod` shows as STATUS, from the pod's and its containers' states.
fn status(pod: &Value) -> String {
    let deleted = !object::text(pod, "/metadata/deletionTimestamp").is_empty();
    let mut reason = match object::text(pod, "/status/reason") {
        "" => object::text(pod, "/status/phase"),
        given => given,
    }
    .to_owned();
    if let Some(initializing) = init_status(pod) {
        reason = initializing;
    } else {
        let statuses = object::list(pod, "/status/containerStatuses");
        let mut running = false;
        for container in statuses.iter().rev() {
            match container_reason(container) {
                Some(why) => reason = why,
                None => running |= is_ready(container),
            }
        }
        // A container that ended well beside one that runs does not make the pod "Completed".
        if reason == "Completed" && running {
            let is_up = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
            let up = object::list(pod, "/status/conditions").iter().any(is_up);
            reason = if up { "Running" } else { "NotReady" }.to_owned();
        }
    }
    match (deleted, object::text(pod, "/status/reason")) {
        (true, "NodeLost") => "Unknown".to_owned(),
        (true, _) => "Terminating".to_owned(),
        _ => reason,
    }
}

fn init_status(pod: &Value) -> Option<String> {
    let total = object::list(pod, "/spec/initContainers").len();
    for (at, container) in object::list(pod, "/status/initContainerStatuses")
        .iter()
        .enumerate()
    {
        let ended = container.pointer("/state/terminated");
        if ended.is_some_and(|t| object::number(t, "/exitCode") == 0) {
            continue;
        }
        return Some(match container_reason(container) {
            Some(why) if why != "PodInitializing" => format!("Init:{why}"),
            _ => format!("Init:{at}/{total}"),
        });
    }
    None
}

fn container_reason(container: &Value) -> Option<String> {
    let waiting = object::text(container, "/state/waiting/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    let ended = container.pointer("/state/terminated")?;
    Some(
        match (
            object::text(ended, "/reason"),
            object::number(ended, "/signal"),
        ) {
            ("", 0) => format!("ExitCode:{}", object::number(ended, "/exitCode")),
            ("", signal) => format!("Signal:{signal}"),
            (reason, _) => reason.to_owned(),
        },
    )
}

fn restarts(statuses: &[Value], now: Timestamp) -> String {
    let count: i64 = statuses
        .iter()
        .map(|s| object::number(s, "/restartCount"))
        .sum();
    let last = statuses
        .iter()
        .map(|s| object::text(s, "/lastState/terminated/finishedAt"))
        .max()
        .unwrap_or_default();
    if count == 0 || last.is_empty() {
        return count.to_string();
    }
    format!("{count} ({} ago)", since(last, now))
}

fn readiness_gates(pod: &Value) -> String {
    let gates = object::list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = |gate: &&Value| {
        object::list(pod, "/status/conditions")
            .iter()
            .any(|c| c["type"] == gate["conditionType"] && c["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(passed).count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_pod() {
        let pod = json!({
            "metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIP": "10.244.0.4", "containerStatuses": [
                {"ready": true, "restartCount": 2, "state": {"running": {}},
                 "lastState": {"terminated": {"finishedAt": "2024-01-01T00:05:00Z"}}}]},
        });
        let now = "2024-01-01T00:10:00Z".parse().unwrap();
        let expected = json!([
            "a",
            "1/1",
            "Running",
            "2 (5m ago)",
            "10m",
            "10.244.0.4",
            "n1",
            "<none>",
            "<none>"
        ]);
        assert_eq!(Value::Array(cells(&pod, now)), expected);
    }

    #[test]
    fn status_words() {
        let with = |status: Value| super::status(&json!({"status": status}));
        assert_eq!(with(json!({"phase": "Pending"})), "Pending");
        assert_eq!(
            with(json!({"phase": "Failed", "reason": "Evicted"})),
            "Evicted"
        );
        let waiting = json!([{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        assert_eq!(
            with(json!({"containerStatuses": waiting})),
            "CrashLoopBackOff"
        );
        let ended = json!([{"state": {"terminated": {"exitCode": 3}}}]);
        assert_eq!(with(json!({"containerStatuses": ended})), "ExitCode:3");
        assert_eq!(
            with(json!({"initContainerStatuses": [{"state": {"running": {}}}]})),
            "Init:0/0"
        );
        let gone = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}});
        assert_eq!(super::status(&gone), "Terminating");
    }
}
