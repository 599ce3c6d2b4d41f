//! Who has an address, and when.

use serde_json::json;

use crate::flow::{Identity, ObjectName, Protocol};

use super::super::{Local, Overrides, trim};
use super::{Api, Outcome, at, node, pod};

fn named(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn an_address_used_again_belongs_to_who_had_it_then() -> Outcome {
    let mut api = Api::new(Overrides::default());
    let ip = "10.244.0.15";
    api.pod(pod("old", "node-0", ip), at(1))?;
    api.delete_pod(pod("old", "node-0", ip), at(100))?;
    assert_eq!(api.holder(ip, at(50))?, "old");
    // Nobody else has it: what comes late is still of the old one.
    assert_eq!(api.holder(ip, at(110))?, "old");

    let mut new = pod("new", "node-0", ip);
    new["status"]["startTime"] = json!("2026-01-01T00:01:30Z");
    api.pod(new, at(105))?;
    assert_eq!(api.holder(ip, at(50))?, "old");
    // Accepted at 90, but the address was not free before 100.
    assert_eq!(api.holder(ip, at(95))?, "old");
    assert_eq!(api.holder(ip, at(101))?, "new");
    assert_eq!(api.holder(ip, at(500))?, "new");

    api.0.expire(at(219));
    assert_eq!(api.holder(ip, at(50))?, "old");
    api.0.expire(at(221));
    assert_eq!(api.holder(ip, at(50))?, "new");
    Ok(())
}

#[test]
fn a_new_pod_has_its_address_before_the_api_says_so() -> Outcome {
    let mut api = Api::new(Overrides::default());
    let ip = "10.244.0.15";
    api.pod(pod("old", "node-0", ip), at(1))?;
    api.delete_pod(pod("old", "node-0", ip), at(100))?;
    let mut new = pod("new", "node-0", ip);
    new["status"]["startTime"] = json!("2026-01-01T00:02:00Z");
    api.pod(new, at(125))?;
    assert_eq!(api.holder(ip, at(110))?, "new");
    Ok(())
}

#[test]
fn running_beats_finished_and_host_network_has_none() -> Outcome {
    let mut api = Api::kubenet()?;
    let ip = "10.244.0.30";
    let mut done = pod("done", "node-0", ip);
    done["status"]["phase"] = json!("Succeeded");
    let ended = json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:00:20Z"}});
    done["status"]["containerStatuses"] = json!([
        {"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": ended}
    ]);
    api.pod(pod("running", "node-0", ip), at(60))?;
    api.pod(done.clone(), at(61))?;
    assert_eq!(api.holder(ip, at(60))?, "running");

    // Listed when it was long over: never had the address as far as anyone can see now.
    done["metadata"]["uid"] = json!("other");
    done["metadata"]["name"] = json!("other");
    done["status"]["podIPs"] = json!([{"ip": "10.244.0.31"}]);
    api.list_pods(vec![done], at(600))?;
    assert_eq!(api.holder("10.244.0.31", at(600))?, "-");

    let mut host = pod("kube-proxy", "node-0", "10.224.0.4");
    host["spec"]["hostNetwork"] = json!(true);
    api.pod(host, at(2))?;
    let inventory = api.inventory();
    let Identity::Node(node) = inventory.identify("10.224.0.4".parse()?, at(5)) else {
        panic!("not the node")
    };
    assert_eq!(node.name, "node-0");
    Ok(())
}

#[test]
fn a_second_address_does_not_cost_the_first() -> Outcome {
    let mut api = Api::new(Overrides::default());
    api.pod(pod("a", "node-0", "10.244.0.15"), at(1))?;
    let mut dual = pod("a", "node-0", "10.244.0.15");
    dual["status"]["podIPs"] = json!([{"ip": "10.244.0.15"}, {"ip": "fd00::15"}]);
    api.pod(dual, at(10))?;
    api.0.expire(at(1000));
    assert_eq!(api.holder("10.244.0.15", at(1000))?, "a");
    assert_eq!(api.holder("fd00::15", at(1000))?, "a");
    Ok(())
}

#[test]
fn what_a_new_list_does_not_show_is_gone() -> Outcome {
    let mut api = Api::kubenet()?;
    let before = api.inventory();
    api.list_pods(
        vec![
            pod("a", "node-0", "10.244.0.15"),
            pod("d", "node-0", "10.244.0.16"),
        ],
        at(50),
    )?;
    assert!(api.0.is_changed());
    let inventory = api.inventory();
    let counts: Vec<_> = inventory.counts().collect();
    assert_eq!(
        counts,
        [
            ("pods", 2),
            ("services", 1),
            ("endpointslices", 1),
            ("nodes", 2),
            ("configmaps", 0)
        ]
    );
    assert_eq!(api.holder("10.244.0.16", at(60))?, "d");
    api.0.expire(at(200));
    assert_eq!(api.holder("10.244.1.17", at(60))?, "-");
    // What did not change is shared, and an object said again changes nothing.
    assert!(std::sync::Arc::ptr_eq(
        &before.services,
        &inventory.services
    ));
    let _ = api.inventory();
    api.pod(pod("a", "node-0", "10.244.0.15"), at(61))?;
    assert!(!api.0.is_changed());
    assert_eq!(
        before
            .pod_at("10.244.1.17".parse()?, at(60))
            .map(|pod| pod.name.clone()),
        Some(named("c"))
    );
    Ok(())
}

#[test]
fn services_answer_at_all_of_their_addresses() -> Outcome {
    let inventory = Api::kubenet()?.inventory();
    let web = Some(named("web"));
    let tcp =
        |ip: &str, port| -> Outcome<_> { Ok(inventory.service(ip.parse()?, port, Protocol::TCP)) };
    assert_eq!(tcp("10.0.12.7", 80)?, web);
    assert_eq!(tcp("10.224.0.100", 80)?, web);
    assert_eq!(tcp("192.0.2.8", 80)?, web);
    assert_eq!(tcp("10.224.0.5", 30080)?, web);
    assert_eq!(tcp("10.0.12.7", 8080)?, None);
    assert_eq!(tcp("10.244.0.15", 30080)?, None);
    assert_eq!(
        inventory.service("10.0.12.7".parse()?, 80, Protocol::UDP),
        None
    );
    assert!(inventory.is_service_ip("10.0.12.7".parse()?));
    let backends = inventory.service_backends(&named("web"));
    let ready: Vec<_> = backends
        .iter()
        .map(|b| (b.ip.to_string(), b.port, b.ready))
        .collect();
    assert_eq!(
        ready,
        [
            ("10.244.0.16".to_owned(), 8080, true),
            ("10.244.1.17".to_owned(), 8080, false)
        ]
    );
    assert!(inventory.services()[0].local_policy);
    assert_eq!(inventory.services()[0].health_check_node_port, Some(31500));
    // This node's addresses that the API does not list have the node ports too.
    let local = Local::with_addresses("node-0", ["10.244.0.1".parse()?]);
    let ip = "10.244.0.1".parse()?;
    assert_eq!(local.service(&inventory, ip, 30080, Protocol::TCP), web);
    Ok(())
}

#[test]
fn addresses_are_classed_without_a_pod_to_name() -> Outcome {
    let inventory = Api::kubenet()?.inventory();
    let identify = |ip: &str| -> Outcome<_> { Ok(inventory.identify(ip.parse()?, at(5))) };
    assert_eq!(identify("168.63.129.16")?, Identity::Platform);
    assert_eq!(identify("169.254.169.254")?, Identity::Platform);
    assert_eq!(identify("10.244.1.200")?, Identity::UnknownPod);
    assert_eq!(identify("10.224.1.2")?, Identity::World);
    assert_eq!(identify("10.0.12.7")?, Identity::Service(named("web")));
    // cbr0 of the other node.
    let Identity::Node(node) = identify("10.244.1.1")? else {
        panic!("not a node")
    };
    assert_eq!(node.name, "node-1");
    Ok(())
}

#[test]
fn overrides_stand_in_for_the_api() -> Outcome {
    let inventory = Api::new(Overrides {
        pod_cidrs: vec!["10.244.0.0/16".parse()?],
        node_cidrs: vec!["10.224.0.0/24".parse()?],
        service_cidrs: vec!["10.0.0.0/16".parse()?],
        ..Overrides::default()
    })
    .inventory();
    let identify = |ip: &str| -> Outcome<_> { Ok(inventory.identify(ip.parse()?, at(5))) };
    assert_eq!(identify("10.244.3.4")?, Identity::UnknownPod);
    assert_eq!(identify("10.0.0.10")?, Identity::Unknown);
    assert!(matches!(identify("10.224.0.9")?, Identity::Node(_)));
    assert_eq!(identify("10.1.2.3")?, Identity::World);
    Ok(())
}

#[test]
fn pods_are_cut_down_with_the_workload_people_know() -> Outcome {
    let owned = |kind: &str, name: &str| -> Outcome<_> {
        let mut object = pod("web-5d4f8-x", "node-0", "10.244.0.15");
        object["metadata"]["labels"]["pod-template-hash"] = json!("5d4f8");
        object["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}
        ]);
        let record = trim::pod(serde_json::from_value(object)?);
        let workload = record.pod.workload.clone();
        Ok(workload.map(|workload| format!("{} {}", workload.kind, workload.name)))
    };
    assert_eq!(
        owned("ReplicaSet", "web-5d4f8")?.as_deref(),
        Some("Deployment web")
    );
    assert_eq!(
        owned("ReplicaSet", "web")?.as_deref(),
        Some("ReplicaSet web")
    );
    assert_eq!(
        owned("Job", "backup-29453760")?.as_deref(),
        Some("CronJob backup")
    );
    assert_eq!(owned("Job", "once-1")?.as_deref(), Some("Job once-1"));
    assert_eq!(
        owned("DaemonSet", "proxy")?.as_deref(),
        Some("DaemonSet proxy")
    );
    let bare = trim::node(serde_json::from_value(node(
        "n",
        "10.224.0.4",
        "10.244.0.0/24",
    ))?);
    assert_eq!((bare.ips.len(), bare.pod_cidrs.len()), (1, 1));
    Ok(())
}
