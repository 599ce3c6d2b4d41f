//! The objects themselves.

use anyhow::{Context, Result};
use nodescope_tests::deployed::{Deployed, folder, texts};
use serde_json::{Value, json};

const OVERLAYS: [&str; 6] = [
    "",
    "overlays/kubenet",
    "overlays/azure-cni",
    "overlays/overlay",
    "overlays/with-hubble-relay-and-ui",
    "overlays/with-prometheus-operator",
];

/// Set to 1, files that are made from others are written.
const WRITE: &str = "NODESCOPE_WRITE";

/// In every overlay the agent has three of root's rights, two folders of the node, and no more.
#[test]
fn no_overlay_asks_for_more_than_the_agent_needs() -> Result<()> {
    for overlay in OVERLAYS {
        let Some(deployed) = Deployed::render(overlay)? else {
            return Ok(());
        };
        let pod = deployed.pod()?;
        assert_eq!(
            pod.capabilities(),
            ["BPF", "PERFMON", "NET_ADMIN"],
            "{overlay}"
        );
        let context = &pod.container()["securityContext"];
        assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"]);
        assert_eq!(context["privileged"], Value::Null);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        for namespace in ["hostPID", "hostIPC"] {
            assert_eq!(pod.spec[namespace], Value::Null, "{overlay}: {namespace}");
        }
        let volumes = pod.spec["volumes"].as_array().context("no volumes")?;
        let paths: Vec<_> = volumes
            .iter()
            .filter_map(|volume| volume["hostPath"]["path"].as_str())
            .collect();
        assert_eq!(paths, ["/sys/fs/bpf", "/run/nodescope"], "{overlay}");
        for kind in ["Role", "ClusterRole"] {
            for role in deployed.of_kind(kind) {
                for rule in role["rules"].as_array().context("no rules")? {
                    let resources = texts(&rule["resources"]);
                    assert!(!resources.contains(&"secrets") && !resources.contains(&"*"));
                    let reads = ["get", "list", "watch"];
                    let verbs = texts(&rule["verbs"]);
                    assert!(verbs.iter().all(|verb| reads.contains(verb)), "{rule}");
                }
            }
        }
    }
    Ok(())
}

/// An update keeps most nodes watched, a node's agent comes before its pods, and the kubelet
/// gives it the time to write its last records.
#[test]
fn the_daemonset_is_run_as_a_part_of_the_node() -> Result<()> {
    let Some(deployed) = Deployed::render("")? else {
        return Ok(());
    };
    let daemonset = deployed.of_kind("DaemonSet").next().context("none")?;
    let update = &daemonset["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(update["maxUnavailable"], "10%");
    let spec = deployed.pod()?.spec;
    assert_eq!(spec["hostNetwork"], true);
    assert_eq!(spec["priorityClassName"], "system-node-critical");
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(spec["terminationGracePeriodSeconds"], 15);
    let container = deployed.pod()?.container().clone();
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
    }
    let peers = deployed.of_kind("Service").next().context("no Service")?;
    assert_eq!(peers["spec"]["clusterIP"], "None");
    assert_eq!(peers["spec"]["selector"], spec_labels(daemonset));
    Ok(())
}

fn spec_labels(daemonset: &Value) -> Value {
    daemonset["spec"]["selector"]["matchLabels"].clone()
}

/// What the API is told on the network takes TLS and a client's certificate; without, it is told
/// on loopback.
#[test]
fn flows_leave_the_node_by_tls_only() -> Result<()> {
    for overlay in OVERLAYS {
        let Some(deployed) = Deployed::render(overlay)? else {
            return Ok(());
        };
        let maps = deployed.of_kind("ConfigMap");
        let mut configurations = maps.filter(|map| {
            let name = map["metadata"]["name"].as_str();
            name.is_some_and(|name| name.starts_with("nodescope"))
        });
        let map = configurations.next().context("no configuration")?;
        let text = map["data"]["config.yaml"].as_str().context("no file")?;
        let config: Value = serde_yaml_ng::from_str(text)?;
        assert_eq!(config["insecure-listen"], Value::Null, "{overlay}");
        let tls = ["tls-cert", "tls-key", "tls-client-ca"].map(|key| config[key].is_string());
        match config["listen-hubble"].as_str() {
            Some("127.0.0.1:4244") => assert_eq!(tls, [false; 3], "{overlay}"),
            other => assert_eq!((other, tls), (Some("0.0.0.0:4244"), [true; 3]), "{overlay}"),
        }
    }
    Ok(())
}

/// The operator's rules are the ones that Prometheus is tested with.
#[test]
fn the_operators_rules_are_prometheus_own() -> Result<()> {
    let rules = std::fs::read_to_string(folder().join("prometheus/rules.yaml"))?;
    let rules: serde_yaml_ng::Value = serde_yaml_ng::from_str(&rules)?;
    let path = folder().join("overlays/with-prometheus-operator/rules.yaml");
    let mut wanted: serde_yaml_ng::Value = serde_yaml_ng::from_str(
        "{apiVersion: monitoring.coreos.com/v1, kind: PrometheusRule, metadata: {name: nodescope, \
         namespace: nodescope}}",
    )?;
    wanted["spec"]["groups"] = rules["groups"].clone();
    let wanted = format!(
        "# Made from deploy/prometheus/rules.yaml:\n# {WRITE}=1 cargo test --test deploy rules\n{}",
        serde_yaml_ng::to_string(&wanted)?
    );
    if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        std::fs::write(&path, &wanted)?;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} is out of date: run the test with {WRITE}=1",
        path.display()
    );
    Ok(())
}
