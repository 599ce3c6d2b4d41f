//! Tests of the cluster room that need no API server.

mod clocks;
mod configuring;
mod knowing;
mod masquerade;
mod naming;
mod own_pods;
mod peers;
mod reading;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::table::Change;
use super::tables::{Tables, Update};
use super::{Inventory, Overrides, trim};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// 2026-01-01T00:00:00Z plus so many seconds.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds)
}

/// A pod as the API writes it, started at `at(0)`.
fn pod(name: &str, node: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "labels": {"app": name}, "managedFields": [{"manager": "kubelet"}]
        },
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "startTime": "2026-01-01T00:00:00Z"
        }
    })
}

fn node(name: &str, ip: &str, cidr: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}
        ]}
    })
}

/// The API's answers, applied.
struct Api(Tables);

impl Api {
    fn new(overrides: Overrides) -> Self {
        Self(Tables::new(overrides))
    }

    /// The lab's two nodes, three pods and a service with two of them behind it.
    fn kubenet() -> Outcome<Self> {
        let mut api = Self::new(Overrides::default());
        api.node(node("node-0", "10.224.0.4", "10.244.0.0/24"))?;
        api.node(node("node-1", "10.224.0.5", "10.244.1.0/24"))?;
        api.pod(pod("a", "node-0", "10.244.0.15"), at(1))?;
        api.pod(pod("b", "node-0", "10.244.0.16"), at(1))?;
        api.pod(pod("c", "node-1", "10.244.1.17"), at(1))?;
        api.service(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.0.12.7", "clusterIPs": ["10.0.12.7"],
                "externalIPs": ["192.0.2.8"], "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 31500,
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080, "protocol": "TCP"}]
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "10.224.0.100"}]}}
        }))?;
        api.slice(json!({
            "metadata": {
                "name": "web-x1", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"}
            },
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.0.16"], "nodeName": "node-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.17"], "nodeName": "node-1", "conditions": {"ready": false}}
            ]
        }))?;
        Ok(api)
    }

    fn pod(&mut self, object: Value, now: SystemTime) -> Outcome {
        let record = trim::pod(serde_json::from_value(object)?);
        self.0.apply(Update::Pod(Change::Applied(record)), now);
        Ok(())
    }

    fn list_pods(&mut self, objects: Vec<Value>, now: SystemTime) -> Outcome {
        self.0.apply(Update::Pod(Change::Begin), now);
        for object in objects {
            let record = trim::pod(serde_json::from_value(object)?);
            self.0.apply(Update::Pod(Change::Listed(record)), now);
        }
        self.0.apply(Update::Pod(Change::Complete), now);
        Ok(())
    }

    fn delete_pod(&mut self, object: Value, now: SystemTime) -> Outcome {
        let record = trim::pod(serde_json::from_value(object)?);
        self.0.apply(Update::Pod(Change::Deleted(record)), now);
        Ok(())
    }

    fn service(&mut self, object: Value) -> Outcome {
        let record = trim::service(serde_json::from_value(object)?);
        self.0
            .apply(Update::Service(Change::Applied(record)), at(1));
        Ok(())
    }

    fn slice(&mut self, object: Value) -> Outcome {
        let record = trim::slice(serde_json::from_value(object)?);
        self.0.apply(Update::Slice(Change::Applied(record)), at(1));
        Ok(())
    }

    fn node(&mut self, object: Value) -> Outcome {
        let record = trim::node(serde_json::from_value(object)?);
        self.0.apply(Update::Node(Change::Applied(record)), at(1));
        Ok(())
    }

    fn inventory(&mut self) -> std::sync::Arc<Inventory> {
        self.0.build()
    }

    /// Name of the pod that had the address then, or `-`.
    fn holder(&mut self, ip: &str, then: SystemTime) -> Outcome<String> {
        let ip: IpAddr = ip.parse()?;
        let inventory = self.inventory();
        Ok(inventory
            .pod_at(ip, then)
            .map_or("-".to_owned(), |pod| pod.name.name.clone()))
    }
}
