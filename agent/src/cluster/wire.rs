//! What is read of an API object. Every other field is passed over where it stands, so most of an
//! object (`managedFields`, annotations, volumes, environments, images) is never in memory.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

/// Of `metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) creation_timestamp: Option<Time>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) owner_references: Option<Vec<Owner>>,
}

/// Of an owner reference.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) controller: Option<bool>,
}

/// An object with a specification and a state.
#[derive(Debug, Deserialize)]
pub(super) struct Object<S, T> {
    #[serde(default)]
    pub(super) metadata: Meta,
    pub(super) spec: Option<S>,
    pub(super) status: Option<T>,
}

/// A pod.
pub(super) type Pod = Object<PodSpec, PodStatus>;
/// A node.
pub(super) type Node = Object<NodeSpec, NodeStatus>;
/// A service: all of it but its metadata is of use.
pub(super) type Service = Object<core::ServiceSpec, core::ServiceStatus>;

/// Of a pod's specification.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) containers: Option<Vec<Container>>,
    pub(super) init_containers: Option<Vec<Container>>,
    pub(super) host_network: Option<bool>,
    pub(super) node_name: Option<String>,
}

/// Of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) ports: Option<Vec<core::ContainerPort>>,
    pub(super) liveness_probe: Option<core::Probe>,
    pub(super) readiness_probe: Option<core::Probe>,
    pub(super) startup_probe: Option<core::Probe>,
}

/// Of a pod's state.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Option<Vec<PodIp>>,
    pub(super) start_time: Option<Time>,
    pub(super) container_statuses: Option<Vec<ContainerStatus>>,
    pub(super) init_container_statuses: Option<Vec<ContainerStatus>>,
}

/// An address of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodIp {
    pub(super) ip: String,
}

/// Of a container's state.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    pub(super) started: Option<bool>,
    pub(super) state: Option<ContainerState>,
}

/// Of what a container is doing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerState {
    pub(super) terminated: Option<Terminated>,
}

/// Of a container's end.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Terminated {
    pub(super) finished_at: Option<Time>,
}

/// Of a node's specification.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(super) pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Option<Vec<String>>,
}

/// Of a node's state.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    pub(super) addresses: Option<Vec<core::NodeAddress>>,
    pub(super) allocatable: Option<BTreeMap<String, Quantity>>,
}

/// An EndpointSlice.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Slice {
    pub(super) metadata: Meta,
    pub(super) ports: Option<Vec<discovery::EndpointPort>>,
    pub(super) endpoints: Option<Vec<Endpoint>>,
}

/// An endpoint, the same for each port of its slice.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Endpoint {
    pub(super) addresses: Option<Vec<String>>,
    pub(super) conditions: Option<discovery::EndpointConditions>,
    pub(super) node_name: Option<String>,
    pub(super) target_ref: Option<core::ObjectReference>,
}

/// A ConfigMap.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigMap {
    pub(super) metadata: Meta,
    pub(super) data: Option<BTreeMap<String, String>>,
}
