//! Services and their EndpointSlices.

use serde_json::{Value, json};

use super::metadata;
use crate::lab::names;
use crate::lab::pods::Pod;
use crate::lab::services::Service;
use crate::lab::topology::Topology;

/// A service.
pub fn service(service: &Service) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            let mut value = json!({
                "name": port.name, "protocol": port.protocol.as_str(),
                "port": port.port, "targetPort": port.target,
            });
            if let Some(node_port) = port.node_port {
                value["nodePort"] = json!(node_port);
            }
            value
        })
        .collect();
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": metadata(Some(&service.namespace), &service.name, json!({})),
        "spec": {
            "type": service.kind(),
            "clusterIP": service.cluster_ip.to_string(),
            "clusterIPs": [service.cluster_ip.to_string()],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": ports,
        },
        "status": {"loadBalancer": {}},
    });
    if service.is_external() {
        object["spec"]["externalTrafficPolicy"] = json!(service.policy.as_str());
    }
    if let Some(port) = service.health_check_port() {
        object["spec"]["healthCheckNodePort"] = json!(port);
    }
    if let Some(seconds) = service.affinity_seconds {
        object["spec"]["sessionAffinity"] = json!("ClientIP");
        object["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    if let Some(vip) = service.vip {
        object["spec"]["allocateLoadBalancerNodePorts"] = json!(true);
        object["metadata"]["annotations"] = json!({
            "service.beta.kubernetes.io/azure-load-balancer-internal": "true",
        });
        object["status"]["loadBalancer"] = json!({"ingress": [
            {"ip": vip.to_string(), "ipMode": "VIP"},
        ]});
    }
    if let Some((key, value)) = &service.selector {
        object["spec"]["selector"] = json!({key: value});
    }
    object
}

/// The name of a service's EndpointSlice.
pub fn endpoint_slice_name(service: &Service) -> String {
    let seed = format!("{}/{}", service.namespace, service.name);
    match service.selector {
        Some(_) => format!("{}-{}", service.name, names::kube_suffix(&seed, 5)),
        None => service.name.clone(),
    }
}

/// The EndpointSlice of a service.
pub fn endpoint_slice(topology: &Topology, service: &Service, pods: &[Pod]) -> Value {
    let endpoints: Vec<Value> = service
        .endpoints(pods)
        .iter()
        .map(|endpoint| {
            let mut value = json!({
                "addresses": [endpoint.ip.to_string()],
                "conditions": {
                    "ready": endpoint.ready(), "serving": endpoint.serving(),
                    "terminating": endpoint.terminating(),
                },
            });
            if let Some(pod) = endpoint.pod {
                value["nodeName"] = json!(topology.nodes[pod.node()].name);
                value["targetRef"] = json!({
                    "kind": "Pod", "namespace": pod.spec().namespace, "name": pod.name(),
                    "uid": names::uid(&format!("{}/{}", pod.spec().namespace, pod.name())),
                });
            }
            value
        })
        .collect();
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            json!({"name": port.name, "protocol": port.protocol.as_str(), "port": port.target})
        })
        .collect();
    let labels = json!({
        "kubernetes.io/service-name": service.name,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": metadata(Some(&service.namespace), &endpoint_slice_name(service), labels),
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    })
}
