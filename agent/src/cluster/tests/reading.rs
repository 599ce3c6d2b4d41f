//! Objects cut down while they are read.

use std::sync::Arc;

use kube::Resource;
use serde_json::json;

use super::super::cut::Cut;
use super::super::trim::{PodRecord, SliceRecord};
use super::super::{Overrides, Scope, tables::Tables};
use super::{Api, Outcome, at, pod};

/// A pod with what a real one has beside: most of it.
fn full(name: &str, node: &str, ip: &str) -> serde_json::Value {
    let mut object = pod(name, node, ip);
    let labels = json!({"app": "web", "pod-template-hash": "5d4f8"});
    object["metadata"]["labels"] = labels;
    object["metadata"]["resourceVersion"] = json!("77");
    object["metadata"]["annotations"] = json!({"checksum/config": "9f86"});
    object["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8", "uid": "u",
         "controller": true}
    ]);
    object["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [{"a": [1, {}]}]}}]);
    object["spec"]["containers"] = json!([{
        "name": "c", "env": [{"name": "A", "value": "\u{7}\n\"b\""}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
    }]);
    object["status"]["containerStatuses"] = json!([
        {"name": "c", "started": true, "state": {"running": {"startedAt": null}}}
    ]);
    object
}

#[test]
fn a_pod_is_read_with_its_version_and_without_the_rest() -> Outcome {
    let text = full("web-5d4f8-x", "node-0", "10.244.0.15").to_string();
    let read: Cut<PodRecord> = serde_json::from_str(&text)?;
    assert_eq!(read.meta().resource_version.as_deref(), Some("77"));
    assert_eq!(read.meta().managed_fields, None);
    assert_eq!(<Cut<PodRecord> as Resource>::plural(&()), "pods");
    assert_eq!(
        <Cut<SliceRecord> as Resource>::api_version(&()),
        "discovery.k8s.io/v1"
    );
    let pod = &read.record.pod;
    assert_eq!(pod.name.to_string(), "default/web-5d4f8-x");
    assert_eq!((&*pod.node, pod.ips.len()), ("node-0", 1));
    assert_eq!(pod.workload.as_deref().map(|one| &*one.name), Some("web"));
    let probes: Vec<_> = pod
        .probes
        .iter()
        .map(|one| (one.port, one.started))
        .collect();
    assert_eq!(probes, [(8080, true)]);
    Ok(())
}

#[test]
fn what_a_client_in_go_writes_for_nothing_is_nothing() -> Outcome {
    let bare = json!({
        "metadata": {"name": "a", "creationTimestamp": null, "labels": null},
        "spec": {"containers": null}, "status": {"podIPs": null, "containerStatuses": null},
    });
    let read: Cut<PodRecord> = serde_json::from_value(bare)?;
    assert_eq!(read.record.pod.name.name, "a");
    assert!(read.record.pod.ips.is_empty());
    let bare = json!({"metadata": {"name": "s"}, "endpoints": null, "ports": null});
    let read: Cut<SliceRecord> = serde_json::from_value(bare)?;
    assert!(read.record.backends.is_empty() && read.record.targets.is_empty());
    Ok(())
}

#[test]
fn replicas_share_what_they_have_in_common_and_only_own_pods_have_probes() -> Outcome {
    let mut api = Api(Tables::new(Overrides::default()).on("node-0", Scope::Node));
    api.pod(full("a", "node-0", "10.244.0.15"), at(1))?;
    api.pod(full("b", "node-1", "10.244.1.16"), at(1))?;
    let inventory = api.inventory();
    let of = |ip: &str| -> Outcome<_> {
        let pod = inventory.pod_at(ip.parse()?, at(1)).cloned();
        Ok(pod.unwrap_or_default())
    };
    let (a, b) = (of("10.244.0.15")?, of("10.244.1.16")?);
    assert!(Arc::ptr_eq(&a.labels, &b.labels));
    let workloads = a.workload.as_ref().zip(b.workload.as_ref());
    assert!(workloads.is_some_and(|(a, b)| Arc::ptr_eq(a, b)));
    assert_eq!((a.probes.len(), b.probes.len()), (1, 0));
    let here: Vec<_> = inventory.pods_on("node-0").collect();
    assert_eq!(here.len(), 1);
    assert!(Arc::ptr_eq(here[0], &a));
    let there: Vec<_> = inventory.pods_on("node-1").collect();
    assert!(there.len() == 1 && Arc::ptr_eq(there[0], &b));
    Ok(())
}
