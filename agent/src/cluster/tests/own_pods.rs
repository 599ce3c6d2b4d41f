//! What is known of other nodes' pods when only the own node's are watched.

use serde_json::{Value, json};

use super::super::table::Change;
use super::super::tables::{Tables, Update};
use super::super::{AgentAt, Overrides, Scope, trim};
use super::{Api, Outcome, at, node, pod};

/// A slice of a service with pods, each a name, an address and a node.
fn slice(service: &str, pods: &[(&str, &str, &str)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(name, ip, node)| {
            json!({
                "addresses": [ip], "nodeName": node,
                "targetRef": {
                    "kind": "Pod", "namespace": "default", "name": name, "uid": format!("uid-{name}")
                }
            })
        })
        .collect();
    json!({
        "metadata": {
            "name": format!("{service}-x1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service}
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints
    })
}

fn own_pods(scope: Scope) -> Outcome<Api> {
    let mut api = Api(Tables::new(Overrides::default()).on("node-0", scope));
    api.node(node("node-0", "10.224.0.4", "10.244.0.0/24"))?;
    api.node(node("node-1", "10.224.0.5", "10.244.1.0/24"))?;
    api.pod(pod("a", "node-0", "10.244.0.15"), at(1))?;
    Ok(api)
}

#[test]
fn a_pod_of_another_node_is_known_as_long_as_a_service_has_it() -> Outcome {
    let mut api = own_pods(Scope::Node)?;
    let both = [
        ("a", "10.244.0.15", "node-0"),
        ("b", "10.244.1.16", "node-1"),
    ];
    api.slice(slice("web", &both))?;
    api.slice(slice("shop", &both[1..]))?;
    let inventory = api.inventory();
    let b = inventory.pod_at("10.244.1.16".parse()?, at(2)).cloned();
    let b = b.unwrap_or_default();
    assert_eq!((&*b.name.name, &*b.node, &*b.uid), ("b", "node-1", "uid-b"));
    // The own pod is the watch's: the slice says less of it.
    let a = inventory.pod_at("10.244.0.15".parse()?, at(2)).cloned();
    assert_eq!(a.map(|pod| pod.labels.len()), Some(1));
    assert_eq!(inventory.counts().next(), Some(("pods", 1)));

    // Still behind the other service.
    api.slice(slice("web", &both[..1]))?;
    api.0.expire(at(1000));
    assert_eq!(api.holder("10.244.1.16", at(1000))?, "b");
    // And then behind none: it is named for a while.
    let record = trim::slice(serde_json::from_value(slice("shop", &both[1..]))?);
    let gone = Update::Slice(Change::Deleted(record));
    api.0.apply(gone, at(1000));
    assert_eq!(api.holder("10.244.1.16", at(1001))?, "b");
    api.0.expire(at(1200));
    assert_eq!(api.holder("10.244.1.16", at(1001))?, "-");
    assert_eq!(api.holder("10.244.0.15", at(1001))?, "a");
    Ok(())
}

#[test]
fn slices_name_no_pods_when_all_are_watched() -> Outcome {
    let mut api = own_pods(Scope::Cluster)?;
    api.slice(slice("web", &[("b", "10.244.1.16", "node-1")]))?;
    assert_eq!(api.holder("10.244.1.16", at(2))?, "-");
    // All pods are known when both watches have said theirs.
    api.list_pods(vec![pod("a", "node-0", "10.244.0.15")], at(3))?;
    let listed = |api: &mut Api| api.inventory().listed[0];
    assert!(!listed(&mut api));
    for change in [Change::Begin, Change::Complete] {
        api.0.apply(Update::Peer(change), at(3));
    }
    assert!(listed(&mut api));
    Ok(())
}

#[test]
fn agents_are_found_behind_their_own_service() -> Outcome {
    let mut api = Api(Tables::new(Overrides::default())
        .within("default")
        .on("node-0", Scope::Node));
    let mut agents = slice("nodescope", &[("nodescope-x", "10.224.0.5", "node-1")]);
    agents["metadata"]["labels"]["app.kubernetes.io/name"] = json!("nodescope");
    agents["ports"] = json!([{"name": "metrics", "port": 9817}, {"name": "hubble", "port": 4245}]);
    api.slice(agents)?;
    api.slice(slice("web", &[("b", "10.244.1.16", "node-1")]))?;
    api.0.build();
    let found: Vec<_> = api.0.agents().iter().collect();
    let at = AgentAt {
        ip: "10.224.0.5".parse()?,
        port: Some(4245),
    };
    assert_eq!(found, [(&"node-1".to_owned(), &at)]);
    Ok(())
}

/// What the own pods are called is known soon; of the others' changes some are taken at once.
#[test]
fn own_pods_and_complete_lists_are_urgent() -> Outcome {
    let mut api = own_pods(Scope::Cluster)?;
    assert!(api.0.is_urgent());
    api.inventory();
    let other = trim::pod(serde_json::from_value(pod("b", "node-1", "10.244.1.16"))?);
    api.0
        .apply(Update::Peer(Change::Applied(other.clone())), at(2));
    assert!(api.0.is_changed() && !api.0.is_urgent());
    api.inventory();
    // Told once more as it is, or forgotten.
    api.pod(pod("a", "node-0", "10.244.0.15"), at(2))?;
    assert!(!api.0.is_changed() && !api.0.is_urgent());
    api.0.apply(Update::Peer(Change::Deleted(other)), at(2));
    assert!(api.0.is_changed() && !api.0.is_urgent());
    api.delete_pod(pod("a", "node-0", "10.244.0.15"), at(2))?;
    assert!(api.0.is_urgent());
    api.inventory();
    for change in [Change::Begin, Change::Complete] {
        api.0.apply(Update::Node(change), at(3));
    }
    assert!(api.0.is_urgent(), "the nodes are all known");
    api.inventory();
    assert!(!api.0.is_changed() && !api.0.is_urgent());
    Ok(())
}

#[test]
fn probes_depend_on_services_and_own_pods_alone() -> Outcome {
    let mut api = own_pods(Scope::Cluster)?;
    api.slice(slice("web", &[("a", "10.244.0.15", "node-0")]))?;
    let before = api.inventory();
    let other = pod("b", "node-1", "10.244.1.16");
    let other = trim::pod(serde_json::from_value(other)?);
    api.0.apply(Update::Peer(Change::Applied(other)), at(2));
    let others = api.inventory();
    assert!(before.is_probed_alike(&others));
    api.slice(slice("web", &[]))?;
    let moved = api.inventory();
    assert!(!others.is_probed_alike(&moved));
    api.pod(pod("c", "node-0", "10.244.0.17"), at(2))?;
    let own = api.inventory();
    assert!(!moved.is_probed_alike(&own));
    for change in [Change::Begin, Change::Complete] {
        api.0.apply(Update::Node(change), at(3));
    }
    assert!(own.is_probed_alike(&api.inventory()));
    Ok(())
}
