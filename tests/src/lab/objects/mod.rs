//! Kubernetes objects of the lab, as JSON: what an API server would tell about it.

mod services;

use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::names;
use super::pods::Pod;
use super::topology::{NodeSpec, Topology};
pub use services::{endpoint_slice, service};

/// When everything in the lab was created, so that objects are the same on every run.
const CREATED: &str = "2026-01-05T08:00:00Z";

/// The version that nodes report.
const KUBELET_VERSION: &str = "v1.32.6";

/// Programs that run on each node's own network in AKS.
const HOST_NETWORK_PODS: [&str; 5] = [
    "kube-proxy",
    "azure-ip-masq-agent",
    "cloud-node-manager",
    "csi-azuredisk-node",
    "csi-azurefile-node",
];

/// The namespaces.
pub fn namespaces() -> Vec<Value> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .iter()
        .map(|name| {
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": metadata(None, name, json!({"kubernetes.io/metadata.name": name})),
                "status": {"phase": "Active"},
            })
        })
        .collect()
}

/// A node.
pub fn node(spec: &NodeSpec) -> Value {
    let pool = spec.name.split('-').nth(1).unwrap_or_default();
    let labels = json!({
        "kubernetes.io/hostname": spec.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.azure.com/agentpool": pool,
        "kubernetes.azure.com/network-policy": "none",
    });
    let mut node_spec = json!({
        "providerID": format!("azure:///virtualMachineScaleSets/{}", spec.name),
    });
    if let Some(cidr) = spec.pod_cidr {
        node_spec["podCIDR"] = json!(cidr.to_string());
        node_spec["podCIDRs"] = json!([cidr.to_string()]);
    }
    // maxPods of AKS: 30 where pods take addresses of the subnet.
    let pods = match spec.pod_cidr {
        Some(_) => "110",
        None => "30",
    };
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": metadata(None, &spec.name, labels),
        "spec": node_spec,
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": spec.ip.to_string()},
                {"type": "Hostname", "address": spec.name},
            ],
            "allocatable": {"pods": pods, "cpu": "1900m", "memory": "5368160Ki"},
            "capacity": {"pods": pods, "cpu": "2", "memory": "8123456Ki"},
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "kubelet is posting ready status",
                "lastHeartbeatTime": CREATED, "lastTransitionTime": CREATED,
            }],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux",
                "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": KUBELET_VERSION,
                "containerRuntimeVersion": "containerd://1.7.27",
                "osImage": "Ubuntu 22.04.5 LTS", "kernelVersion": "5.15.0-1089-azure",
                "machineID": "", "systemUUID": "", "bootID": "",
            },
        },
    })
}

/// A pod with an interface of its own.
pub fn pod(topology: &Topology, pod: &Pod) -> Value {
    let spec = pod.spec();
    let (key, value) = &spec.label;
    let labels = json!({key: value, "pod-template-hash": pod.template_hash()});
    let ports: Vec<Value> = spec
        .ports
        .iter()
        .map(|(name, protocol, port)| {
            json!({"name": name, "protocol": protocol.as_str(), "containerPort": port})
        })
        .collect();
    let node = &topology.nodes[spec.node];
    let mut object = running_pod(
        &spec.namespace,
        &pod.name(),
        labels,
        node,
        pod.ip(),
        &spec.app,
        json!(ports),
    );
    own(&mut object, "ReplicaSet", &pod.replica_set());
    for probe in &spec.probes {
        object["spec"]["containers"][0][probe.kind.field()] = probe.json();
    }
    if !pod.is_ready() {
        for condition in ["Ready", "ContainersReady"] {
            set_false(&mut object["status"]["conditions"], condition);
        }
        object["status"]["containerStatuses"][0]["ready"] = json!(false);
    }
    if pod.is_terminating() {
        object["metadata"]["deletionTimestamp"] = json!(CREATED);
        object["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    }
    object
}

/// The pods on `node`'s own network: their address is the node's.
pub fn host_network_pods(node: &NodeSpec) -> Vec<Value> {
    HOST_NETWORK_PODS
        .iter()
        .map(|app| {
            let mut object = host_network_pod(node, "kube-system", app);
            object["metadata"]["labels"] = json!({"component": app, "tier": "node"});
            object
        })
        .collect()
}

/// One of them, of the DaemonSet `app`.
pub fn host_network_pod(node: &NodeSpec, namespace: &str, app: &str) -> Value {
    let mut object = running_pod(
        namespace,
        &host_network_pod_name(node, app),
        json!({}),
        node,
        node.ip,
        app,
        Value::Array(Vec::new()),
    );
    object["spec"]["hostNetwork"] = json!(true);
    own(&mut object, "DaemonSet", app);
    object
}

/// Its name.
pub fn host_network_pod_name(node: &NodeSpec, app: &str) -> String {
    let suffix = names::kube_suffix(&format!("{}/{app}", node.name), 5);
    format!("{app}-{suffix}")
}

/// Makes the condition `kind` of `conditions` false, as kubelet words it.
fn set_false(conditions: &mut Value, kind: &str) {
    let all = conditions.as_array_mut().into_iter().flatten();
    for condition in all.filter(|condition| condition["type"] == kind) {
        condition["status"] = json!("False");
        condition["reason"] = json!("ContainersNotReady");
        condition["message"] = json!("containers with unready status");
    }
}

/// Metadata of an object; its uid is made from its name.
pub(super) fn metadata(namespace: Option<&str>, name: &str, labels: Value) -> Value {
    let seed = format!("{}/{name}", namespace.unwrap_or_default());
    let mut value = json!({
        "name": name, "uid": names::uid(&seed), "creationTimestamp": CREATED, "labels": labels,
    });
    if let Some(namespace) = namespace {
        value["namespace"] = json!(namespace);
    }
    value
}

fn own(object: &mut Value, kind: &str, name: &str) {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let uid = names::uid(&format!("{kind}/{namespace}/{name}"));
    object["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": kind, "name": name,
        "uid": uid, "controller": true, "blockOwnerDeletion": true,
    }]);
}

fn running_pod(
    namespace: &str,
    name: &str,
    labels: Value,
    node: &NodeSpec,
    ip: Ipv4Addr,
    container: &str,
    ports: Value,
) -> Value {
    let image = format!("mcr.microsoft.com/oss/{container}:v1");
    let mut spec = Map::new();
    spec.insert("nodeName".to_owned(), json!(node.name));
    spec.insert("serviceAccountName".to_owned(), json!("default"));
    spec.insert("restartPolicy".to_owned(), json!("Always"));
    spec.insert(
        "containers".to_owned(),
        json!([{"name": container, "image": image, "ports": ports}]),
    );
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": CREATED});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": metadata(Some(namespace), name, labels),
        "spec": spec,
        "status": {
            "phase": "Running",
            "podIP": ip.to_string(),
            "podIPs": [{"ip": ip.to_string()}],
            "hostIP": node.ip.to_string(),
            "hostIPs": [{"ip": node.ip.to_string()}],
            "startTime": CREATED,
            "qosClass": "BestEffort",
            "conditions": [condition("Initialized"), condition("Ready"),
                condition("ContainersReady"), condition("PodScheduled")],
            "containerStatuses": [{
                "name": container, "image": image, "imageID": "", "ready": true,
                "started": true, "restartCount": 0,
                "containerID": format!("containerd://{}", names::uid(name).replace('-', "")),
                "state": {"running": {"startedAt": CREATED}},
            }],
        },
    })
}
