//! The pods of a large cluster, as large as real ones: what the server, the controllers and the
//! kubelet of a real cluster write is there, though no agent reads most of it.

use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::objects::{
    NODES, PODS, REPLICAS, STRIDE, app, fields, hash, namespace, node_ip, node_name, u32_of,
};

/// One of the pods of the cluster. It is replaced by one of the next generation, with another name
/// and another address.
#[derive(Clone, Copy, Debug)]
pub struct PodAt {
    /// Below [`PODS`].
    pub number: usize,
    /// From 0.
    pub generation: usize,
}

impl PodAt {
    fn service(self) -> usize {
        self.number / REPLICAS
    }

    pub(super) fn node(self) -> usize {
        self.number * STRIDE % NODES
    }

    pub(super) fn ip(self) -> Ipv4Addr {
        let node = u32_of(self.node());
        // Nodes have 10.128.0.0/24 and so on; a generation later it is another of the node's.
        let on_node = self.number * STRIDE / NODES % 10 + self.generation * 10 % 200;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 10)) + (node << 8) + u32_of(on_node))
    }

    fn replica_set(self) -> String {
        format!("{}-{}", app(self.service()), hash(self.service(), 9))
    }

    /// Its name.
    pub fn name(self) -> String {
        let number = self.number + self.generation * PODS;
        format!("{}-{}", self.replica_set(), hash(number, 5))
    }

    /// Its namespace.
    pub fn namespace(self) -> String {
        namespace(self.service())
    }

    pub(super) fn uid(self) -> String {
        let (number, generation) = (self.number, self.generation);
        format!("8f14e45f-ceea-467d-{generation:04x}-{number:012x}")
    }
}

/// The pod; `seen` goes up with each change of its state.
pub fn pod(at: PodAt, seen: usize) -> Value {
    let (name, app) = (at.name(), app(at.service()));
    let hash = hash(at.service(), 9);
    let time = |seconds: usize| {
        format!(
            "2026-01-01T{:02}:{:02}:00Z",
            seconds / 60 % 24,
            seconds % 60
        )
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": at.namespace(), "uid": at.uid(),
            "generateName": format!("{}-", at.replica_set()),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "app.kubernetes.io/name": "checkout", "app.kubernetes.io/instance": app,
                "app.kubernetes.io/component": "backend", "app.kubernetes.io/part-of": "shop",
                "app.kubernetes.io/version": "4.17.2", "pod-template-hash": hash,
            },
            "annotations": {
                "prometheus.io/scrape": "true", "prometheus.io/port": "9090",
                "prometheus.io/path": "/metrics",
                "checksum/config": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "kubectl.kubernetes.io/restartedAt": "2025-12-31T23:59:59Z",
            },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": at.replica_set(),
                "uid": format!("0cc175b9-c0f1-46b6-8000-{:012x}", at.service()),
                "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": managed(&at, &hash),
        },
        "spec": spec(at),
        "status": {
            "phase": "Running", "qosClass": "Burstable", "hostIP": node_ip(at.node()).to_string(),
            "hostIPs": [{"ip": node_ip(at.node()).to_string()}],
            "podIP": at.ip().to_string(), "podIPs": [{"ip": at.ip().to_string()}],
            "startTime": "2026-01-01T00:00:02Z", "observedGeneration": 1,
            "conditions": (["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady",
                "PodScheduled"].map(|kind| json!({
                    "type": kind, "status": "True", "lastProbeTime": null,
                    "lastTransitionTime": time(seen), "observedGeneration": 1,
                }))),
            "containerStatuses": (["app", "proxy"].map(|container| json!({
                "name": container, "ready": true, "started": true, "restartCount": seen,
                "image": format!("registry.example.com/shop/{container}:4.17.2"),
                "imageID": format!("registry.example.com/shop/{container}@sha256:{:064x}", 77),
                "containerID": format!("containerd://{:064x}", at.number + at.generation),
                "state": {"running": {"startedAt": time(seen)}}, "lastState": {},
                "volumeMounts": [{
                    "name": "kube-api-access", "readOnly": true, "recursiveReadOnly": "Disabled",
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                }],
            }))),
        },
    })
}

fn spec(at: PodAt) -> Value {
    let app = app(at.service());
    let probe = |path: &str, period: u32| {
        json!({
            "httpGet": {"path": path, "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 2,
            "periodSeconds": period, "successThreshold": 1, "failureThreshold": 3,
        })
    };
    let container = |name: &str, port: u16| {
        json!({
            "name": name, "image": format!("registry.example.com/shop/{name}:4.17.2"),
            "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}],
            "env": [
                {"name": "POD_IP", "valueFrom": {"fieldRef":
                    {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
                {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef":
                    {"name": format!("{app}-database"), "key": "url"}}},
                {"name": "LOG_LEVEL", "value": "info"},
                {"name": "OTEL_EXPORTER_OTLP_ENDPOINT",
                    "value": "http://otel-collector.observability.svc.cluster.local:4317"},
                {"name": "FEATURE_FLAGS", "value": "new-cart,fast-search,discount-engine-v2"},
            ],
            "resources": {
                "limits": {"memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"},
            },
            "livenessProbe": probe("/healthz", 10), "readinessProbe": probe("/readyz", 5),
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true, "runAsNonRoot": true,
            },
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/app", "readOnly": true},
                {"name": "kube-api-access", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
            ],
        })
    };
    json!({
        "nodeName": node_name(at.node()), "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst", "serviceAccountName": "checkout",
        "serviceAccount": "checkout", "schedulerName": "default-scheduler", "priority": 0,
        "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
        "preemptionPolicy": "PreemptLowerPriority",
        "securityContext": {"fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container("app", 8080), container("proxy", 15001)],
        "tolerations": (["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
            .map(|key| json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }))),
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": app}},
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": app, "defaultMode": 420}},
            {"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef":
                    {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]}},
        ],
    })
}

/// Who set which fields: more than a third of a pod.
fn managed(at: &PodAt, hash: &str) -> Value {
    let container = |name: &str| {
        let mut all = fields(&[
            "image",
            "imagePullPolicy",
            "name",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "resources",
            "securityContext",
            "volumeMounts",
        ]);
        all["f:env"] = json!({
            "k:{\"name\":\"POD_IP\"}": {".": {}, "f:name": {}, "f:valueFrom": {"f:fieldRef": {}}},
            "k:{\"name\":\"LOG_LEVEL\"}": {".": {}, "f:name": {}, "f:value": {}},
        });
        for probe in ["f:livenessProbe", "f:readinessProbe"] {
            all[probe] = fields(&[
                "failureThreshold",
                "httpGet",
                "periodSeconds",
                "successThreshold",
                "timeoutSeconds",
            ]);
        }
        (format!("k:{{\"name\":\"{name}\"}}"), all)
    };
    let containers: Map<String, Value> = ["app", "proxy"].map(container).into_iter().collect();
    let conditions = [
        "ContainersReady",
        "Initialized",
        "PodReadyToStartContainers",
        "Ready",
    ];
    let condition = |kind: &str| {
        let all = fields(&["lastProbeTime", "lastTransitionTime", "status", "type"]);
        (format!("k:{{\"type\":\"{kind}\"}}"), all)
    };
    let conditions: Map<String, Value> = conditions.map(condition).into_iter().collect();
    let owner = format!(
        "k:{{\"uid\":\"0cc175b9-c0f1-46b6-8000-{:012x}\"}}",
        at.service()
    );
    let ip = format!("k:{{\"ip\":\"{}\"}}", at.ip());
    json!([
        {
            "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {
                    "f:generateName": {},
                    "f:annotations": fields(&["checksum/config", "prometheus.io/scrape"]),
                    "f:labels": fields(&["app.kubernetes.io/name", "app.kubernetes.io/instance",
                        "pod-template-hash", hash]),
                    "f:ownerReferences": {".": {}, owner: {}},
                },
                "f:spec": {
                    "f:containers": containers, "f:dnsPolicy": {}, "f:restartPolicy": {},
                    "f:schedulerName": {}, "f:securityContext": {}, "f:serviceAccountName": {},
                    "f:terminationGracePeriodSeconds": {}, "f:topologySpreadConstraints": {},
                    "f:volumes": {".": {}, "k:{\"name\":\"config\"}": fields(&["configMap", "name"])},
                },
            },
        },
        {
            "manager": "kubelet", "operation": "Update", "apiVersion": "v1",
            "time": "2026-01-01T00:00:05Z", "fieldsType": "FieldsV1", "subresource": "status",
            "fieldsV1": {"f:status": {
                "f:conditions": conditions, "f:containerStatuses": {}, "f:hostIP": {},
                "f:phase": {}, "f:podIP": {}, "f:podIPs": {".": {}, ip: {".": {}, "f:ip": {}}},
                "f:startTime": {},
            }},
        },
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::objects::node;
    use super::*;

    #[test]
    fn objects_are_as_large_as_real_ones_and_pods_are_all_different() {
        let first = PodAt {
            number: 0,
            generation: 0,
        };
        let size = pod(first, 0).to_string().len();
        assert!((6_000..10_000).contains(&size), "{size} bytes");
        assert!(node(7).to_string().len() > 8_000);
        let all = (0..PODS).map(|number| PodAt {
            number,
            generation: 0,
        });
        let next = all.clone().map(|at| PodAt {
            generation: 1,
            ..at
        });
        let ips: HashSet<Ipv4Addr> = all.clone().chain(next).map(PodAt::ip).collect();
        assert_eq!(ips.len(), 2 * PODS);
        let here = all.filter(|at| at.node() == 0).count();
        assert_eq!(here, PODS / NODES);
    }
}
