//! Fields that the real API server fills in, which clients therefore rely on being there.

use serde_json::{Value, json};

use super::kinds::Kind;

/// Fills in the defaults of a kind's fields that this project's clients read.
///
/// Sources: the `SetDefaults_*` functions of the Kubernetes API groups. Cluster IPs and node
/// ports are not allocated: the lab gives them.
pub fn fill(kind: &Kind, object: &mut Value) {
    match kind.plural {
        "pods" => {
            set(object, "spec", "restartPolicy", json!("Always"));
            set(object, "spec", "dnsPolicy", json!("ClusterFirst"));
            set(object, "status", "phase", json!("Pending"));
            for container in each(object, "/spec/containers") {
                protocols(container, "/ports");
            }
        }
        "services" => {
            set(object, "spec", "type", json!("ClusterIP"));
            set(object, "spec", "sessionAffinity", json!("None"));
            set(object, "spec", "internalTrafficPolicy", json!("Cluster"));
            protocols(object, "/spec/ports");
            for port in each(object, "/spec/ports") {
                if port.get("targetPort").is_none() {
                    port["targetPort"] = port["port"].clone();
                }
            }
            set(object, "status", "loadBalancer", json!({}));
        }
        "endpoints" => {
            for subset in each(object, "/subsets") {
                protocols(subset, "/ports");
            }
        }
        "endpointslices" => protocols(object, "/ports"),
        "namespaces" => {
            set(object, "status", "phase", json!("Active"));
            let name = object["metadata"]["name"].clone();
            set(
                &mut object["metadata"],
                "labels",
                "kubernetes.io/metadata.name",
                name,
            );
        }
        "networkpolicies" if object.pointer("/spec/policyTypes").is_none() => {
            let types = match object.pointer("/spec/egress") {
                Some(_) => json!(["Ingress", "Egress"]),
                None => json!(["Ingress"]),
            };
            set(object, "spec", "policyTypes", types);
        }
        _ => {}
    }
}

/// Sets `parent.field` where it is missing, making `parent` too.
fn set(object: &mut Value, parent: &str, field: &str, value: Value) {
    let Some(top) = object.as_object_mut() else {
        return;
    };
    let parent = top.entry(parent).or_insert_with(|| json!({}));
    if let Some(fields) = parent.as_object_mut() {
        fields.entry(field).or_insert(value);
    }
}

fn each<'a>(object: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = object.pointer_mut(pointer).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter(|item| item.is_object())
}

fn protocols(object: &mut Value, pointer: &str) {
    for port in each(object, pointer) {
        if port.get("protocol").is_none() {
            port["protocol"] = json!("TCP");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::by_name;
    use super::*;

    #[test]
    fn a_service_gets_its_port_defaults() {
        let mut service =
            json!({"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}});
        fill(by_name("svc").unwrap(), &mut service);
        assert_eq!(service["spec"]["type"], "ClusterIP");
        assert_eq!(
            service["spec"]["ports"][0],
            json!({"port": 80, "protocol": "TCP", "targetPort": 80})
        );
        assert_eq!(service["spec"]["ports"][1]["protocol"], "UDP");
    }

    #[test]
    fn malformed_fields_are_left_alone() {
        let mut pod = json!({"metadata": {"name": "a"}, "spec": "x", "status": []});
        let before = pod.clone();
        fill(by_name("po").unwrap(), &mut pod);
        assert_eq!(pod, before);
    }
}
