//! A large cluster's nodes, services and EndpointSlices, as large as real ones.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::pods::PodAt;

/// Nodes; the agent runs on the first.
pub const NODES: usize = 5_000;
/// Pods of a service: one EndpointSlice has them all.
pub const REPLICAS: usize = 10;
/// Services, each in front of a Deployment.
pub const SERVICES: usize = NODES;
/// Pods: ten on each node.
pub const PODS: usize = SERVICES * REPLICAS;
/// Namespaces that they are in.
const NAMESPACES: usize = 100;
/// Has no common divisor with the number of nodes, so that pods in a row are on nodes far apart.
pub(super) const STRIDE: usize = 7919;

/// The name of a node; that of the first is the lab's.
pub fn node_name(node: usize) -> String {
    match node {
        0 => "node0".to_owned(),
        other => format!("aks-nodepool1-31415926-vmss{other:06x}"),
    }
}

pub(super) fn node_ip(node: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 4)) + u32_of(node))
}

pub(super) fn u32_of(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn namespace(service: usize) -> String {
    format!("team-{:02}", service % NAMESPACES)
}

pub(super) fn app(service: usize) -> String {
    format!("checkout-{service:04}")
}

/// A name for what number so-and-so is made from, of the letters that Kubernetes uses for names.
pub(super) fn hash(number: usize, letters: usize) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // Multiplier and increment of MMIX, by D. E. Knuth.
    let mut state = u64::from(u32_of(number)).wrapping_mul(6_364_136_223_846_793_005);
    let mut text = String::with_capacity(letters);
    for _ in 0..letters {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) as usize % LETTERS.len();
        text.push(char::from(LETTERS[at]));
    }
    text
}

/// Fields as whoever set them names them.
pub(super) fn fields(names: &[&str]) -> Value {
    let all = names.iter().map(|name| (format!("f:{name}"), json!({})));
    Value::Object(all.collect())
}

/// A service in front of ten pods.
pub fn service(number: usize) -> Value {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 1, 0)) + u32_of(number)).to_string();
    let app = app(number);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": app, "namespace": namespace(number),
            "labels": {"app.kubernetes.io/name": "checkout", "app.kubernetes.io/instance": app},
            "annotations": {"meta.helm.sh/release-name": app},
            "managedFields": [{
                "manager": "helm", "operation": "Update", "apiVersion": "v1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": fields(&["clusterIP", "ports", "selector", "type"])},
            }],
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "selector": {"app.kubernetes.io/instance": app},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// The EndpointSlice of a service, with pods of these generations.
pub fn slice(number: usize, generations: &[usize]) -> Value {
    let app = app(number);
    let endpoint = |(replica, generation): (usize, &usize)| {
        let pod = PodAt {
            number: number * REPLICAS + replica,
            generation: *generation,
        };
        json!({
            "addresses": [pod.ip().to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node_name(pod.node()), "zone": "westeurope-1",
            "targetRef": {
                "kind": "Pod", "namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid(),
            },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{app}-{}", hash(number, 5)), "namespace": namespace(number),
            "labels": {
                "kubernetes.io/service-name": app, "app.kubernetes.io/name": "checkout",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": app, "controller": true,
                "uid": format!("92eb5ffe-e6ae-42fe-8000-{number:012x}"),
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": generations.iter().enumerate().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A node, with the images that it has: the greater part of one.
pub fn node(number: usize) -> Value {
    let name = node_name(number);
    let range = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + (u32_of(number) << 8));
    let range = format!("{range}/24");
    let image = |image: usize| {
        json!({
            "names": [
                format!("registry.example.com/shop/image-{image:02}@sha256:{image:064x}"),
                format!("registry.example.com/shop/image-{image:02}:4.17.2"),
            ],
            "sizeBytes": 104_857_600 + image,
        })
    };
    let resources = json!({
        "cpu": "8", "memory": "32863304Ki", "pods": "110", "ephemeral-storage": "129886128Ki",
    });
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64", "agentpool": "nodepool1",
                "node.kubernetes.io/instance-type": "Standard_D8s_v5",
                "topology.kubernetes.io/region": "westeurope",
                "topology.kubernetes.io/zone": "westeurope-1",
                "kubernetes.azure.com/cluster": "MC_shop_production_westeurope",
                "kubernetes.azure.com/os-sku": "Ubuntu", "kubernetes.azure.com/role": "agent",
            },
            "annotations": {
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
                "node.alpha.kubernetes.io/ttl": "300",
            },
        },
        "spec": {
            "podCIDR": range, "podCIDRs": [range],
            "providerID": format!("azure:///subscriptions/shop/virtualMachines/{number}"),
        },
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node_ip(number).to_string()},
                {"type": "Hostname", "address": name},
            ],
            "capacity": resources, "allocatable": resources,
            "conditions": (["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].map(|kind| json!({
                "type": kind, "status": if kind == "Ready" { "True" } else { "False" },
                "lastHeartbeatTime": "2026-01-01T00:00:00Z",
                "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "KubeletIsFine",
                "message": "kubelet is posting its state",
            }))),
            "images": (0..40).map(image).collect::<Vec<_>>(),
            "nodeInfo": {
                "kubeletVersion": "v1.33.1", "osImage": "Ubuntu 24.04 LTS",
                "kernelVersion": "6.8.0-1021-azure", "containerRuntimeVersion": "containerd://2.0.0",
            },
        },
    })
}
