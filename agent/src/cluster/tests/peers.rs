//! The agents of the own DaemonSet among the pods.

use serde_json::{Value, json};

use super::super::tables::Tables;
use super::super::{AgentAt, Overrides};
use super::{Api, Outcome, at, pod};

/// An agent's pod in a namespace, on a node.
fn agent(namespace: &str, node: &str, ip: &str, ports: &Value) -> Value {
    let mut object = pod(&format!("nodescope-{node}"), node, ip);
    object["metadata"]["namespace"] = json!(namespace);
    object["metadata"]["uid"] = json!(format!("{namespace}-{node}"));
    object["metadata"]["labels"] = json!({"app.kubernetes.io/name": "nodescope"});
    object["spec"]["hostNetwork"] = json!(true);
    object["spec"]["containers"][0]["ports"] = ports.clone();
    object
}

fn found(api: &mut Api) -> Outcome<Vec<(String, String, Option<u16>)>> {
    api.0.build();
    let all = api.0.agents().iter();
    Ok(all
        .map(|(node, AgentAt { ip, port })| (node.clone(), ip.to_string(), *port))
        .collect())
}

fn named(node: &str, ip: &str, port: Option<u16>) -> (String, String, Option<u16>) {
    (node.to_owned(), ip.to_owned(), port)
}

#[test]
fn agents_are_the_labelled_pods_of_the_own_namespace_that_have_a_node_and_an_address() -> Outcome {
    let mut api = Api(Tables::new(Overrides::default()).within("nodescope"));
    let metrics = json!([{"name": "metrics", "containerPort": 9817}]);
    let both = json!([
        {"name": "metrics", "containerPort": 9817},
        {"name": "hubble", "containerPort": 4245}
    ]);
    let first = agent("nodescope", "node-0", "10.224.0.4", &metrics);
    api.pod(first.clone(), at(1))?;
    api.pod(agent("nodescope", "node-1", "10.224.0.5", &both), at(1))?;
    // Another installation, another program, one that waits for a node, one that is over.
    api.pod(agent("other", "node-2", "10.224.0.6", &both), at(1))?;
    api.pod(pod("nodescope", "node-2", "10.244.2.7"), at(1))?;
    api.pod(agent("nodescope", "", "10.224.0.7", &both), at(1))?;
    let mut over = agent("nodescope", "node-3", "10.224.0.8", &both);
    over["status"]["phase"] = json!("Failed");
    api.pod(over, at(1))?;
    let two = [
        named("node-0", "10.224.0.4", None),
        named("node-1", "10.224.0.5", Some(4245)),
    ];
    assert_eq!(found(&mut api)?, two);
    // Nothing new about agents: the same value, so that nobody is told.
    let before = std::sync::Arc::clone(api.0.agents());
    api.pod(pod("c", "node-1", "10.244.1.17"), at(2))?;
    found(&mut api)?;
    assert!(std::sync::Arc::ptr_eq(&before, api.0.agents()));
    api.delete_pod(first, at(3))?;
    assert_eq!(found(&mut api)?, two[1..]);
    Ok(())
}
