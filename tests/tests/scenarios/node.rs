//! Scenarios 1 to 5: the node itself, against `ip`, `bridge` and kubectl's objects.

use std::net::IpAddr;

use anyhow::{Context, Result};
use nodescope_tests::lab::{Agent, Lab, Model};
use serde_json::{Value, json};

use crate::common::{agent, eventually, get, models};
use crate::nat::{configured, describe, lab_of, source_of};

/// The pods of node 0 that have an address of their own.
fn here(lab: &Lab) -> Vec<nodescope_tests::lab::Pod> {
    let pods = lab.pods().into_iter();
    pods.filter(|pod| pod.node() == 0).collect()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

/// Scenario 1: the model and why.
#[test]
fn scenario_01_network_model_is_recognised_with_evidence() -> Result<()> {
    for (model, evidence) in [
        (Model::Kubenet, "cbr0"),
        (Model::AzureCni, "uplink's own subnet 10.220.2.0/24"),
        (Model::Overlay, "pod CIDR is 10.244.0.0/24"),
    ]
    .into_iter()
    .filter(|(model, _)| models(1).contains(model))
    {
        let Some(lab) = lab_of(model, "s01")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        eventually("the model is recognised", || {
            let node = describe(&agent)?;
            Ok(node["network_model"] == model.as_str()
                && texts(&node["evidence"])
                    .iter()
                    .any(|line| line.contains(evidence)))
        })
        .with_context(|| format!("{model:?}: {}", describe(&agent).unwrap_or_default()))?;
        let table = String::from_utf8(agent.cli(&["node"])?.stdout)?;
        let line = table.lines().find(|line| line.starts_with("Network model"));
        let line = line.context("no line about the model")?;
        assert!(line.ends_with(model.as_str()), "{table}");
        assert!(table.contains(evidence), "{table}");
    }
    Ok(())
}

/// Scenario 2: pod ↔ interface ↔ bridge port ↔ neighbour ↔ route, as `ip` and `bridge` have it.
#[test]
fn scenario_02_pod_interface_bridge_neighbour_and_route() -> Result<()> {
    for model in models(2) {
        let Some(lab) = lab_of(model, "s02")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        let node = lab.node(0);
        // Each pod has to have been heard of by the node.
        for pod in here(&lab) {
            let ip = pod.ip().to_string();
            node.tool(&["ping", "-q", "-c", "1", "-W", "2", &ip], "")?;
        }
        for pod in here(&lab) {
            let shown = path_of(&agent, &pod.ip().to_string())?;
            let what = format!("{model:?} {shown}");
            assert_eq!(shown["namespace"], pod.spec().namespace, "{what}");
            assert_eq!(shown["name"], pod.name(), "{what}");
            let host = pod.host_interface();
            assert_eq!(shown["interface"], host, "{what}");
            let link = node.ip_json(&["link", "show", "dev", host])?;
            assert_eq!(shown["index"], link[0]["ifindex"], "{what}");
            assert_eq!(shown["peer_index"], link[0]["link_index"], "{what}");
            let inside = pod.netns().ip_json(&["link", "show", "dev", "eth0"])?;
            assert_eq!(shown["peer_index"], inside[0]["ifindex"], "{what}");
            assert_eq!(shown["mac"], inside[0]["address"], "{what}");
            let master = link[0].get("master").cloned().unwrap_or(Value::Null);
            assert_eq!(
                shown.get("bridge").cloned().unwrap_or(Value::Null),
                master,
                "{what}"
            );
            let neighbours = node.ip_json(&["neigh", "show", &pod.ip().to_string()])?;
            assert_eq!(shown["mac"], neighbours[0]["lladdr"], "{what}");
            assert_eq!(shown["neighbour_interface"], neighbours[0]["dev"], "{what}");
            if master == "cbr0" {
                // The bridge learned that hardware address at that port.
                let fdb = node.tool(&["bridge", "-j", "fdb", "show", "br", "cbr0"], "")?;
                let fdb: Value = serde_json::from_slice(&fdb.stdout)?;
                let learned = fdb.as_array().into_iter().flatten();
                let mut ports = learned.filter(|entry| entry["mac"] == shown["mac"]);
                assert!(ports.any(|entry| entry["ifname"] == host), "{what}");
            }
            let route = node.ip_json(&["route", "get", "fibmatch", &pod.ip().to_string()])?;
            let to = route[0]["dst"].as_str().context("no route")?;
            let to = if to.contains('/') {
                to.to_owned()
            } else {
                format!("{to}/32")
            };
            let dev = route[0]["dev"].as_str().context("no device")?;
            assert_eq!(shown["route"], format!("{to} dev {dev}"), "{what}");
        }
        let table = String::from_utf8(agent.cli(&["node"])?.stdout)?;
        let web = lab.pod("web")?;
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("default/{}", web.name())));
        assert!(
            line.context("no line for the pod")?
                .contains(web.host_interface()),
            "{table}"
        );
    }
    Ok(())
}

/// The way to a pod, once the node knows all of it.
fn path_of(agent: &Agent, ip: &str) -> Result<Value> {
    let mut found = Value::Null;
    eventually(&format!("the way to {ip}"), || {
        let node = describe(agent)?;
        let mut pods = node["pods"].as_array().into_iter().flatten();
        found = pods
            .find(|pod| pod["ip"] == ip)
            .cloned()
            .unwrap_or_default();
        Ok(found["interface"].is_string() && found["mac"].is_string())
    })?;
    Ok(found)
}

/// Scenario 3: pod CIDR against addresses in use, maxPods and what is free; a pod more is one
/// less.
#[test]
fn scenario_03_pod_addresses_in_use_and_free() -> Result<()> {
    for model in models(3) {
        let Some(lab) = lab_of(model, "s03")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        let check = |what: &str| -> Result<()> {
            let pods = here(&lab).len() as u64;
            let name = &lab.topology().nodes[0].name;
            let object = lab.control_plane()?.written("Node", "", name);
            let object = object.context("no node")?;
            let max: u64 = object["status"]["allocatable"]["pods"]
                .as_str()
                .context("no maxPods")?
                .parse()?;
            let range = object["spec"]["podCIDR"].as_str().unwrap_or_default();
            eventually(what, || {
                let room = describe(&agent)?["pod_addresses"].clone();
                let number = |key: &str| room[key].as_str().and_then(|text| text.parse().ok());
                let host: u64 = number("host_network_pods").unwrap_or_default();
                let as_it_should = number("in_use") == Some(pods)
                    && number("pods") == Some(pods + host)
                    && number("max_pods") == Some(max)
                    && number("free_pods") == Some(max - pods - host)
                    && host > 0;
                let addresses = match model {
                    // 256, less network, broadcast and the bridge's own.
                    Model::Kubenet => number("free") == Some(253 - pods),
                    Model::Overlay => number("free") == Some(254 - pods),
                    Model::AzureCni => number("free").is_none(),
                };
                anyhow::ensure!(as_it_should && addresses, "{model:?}: {room}");
                Ok(room["range"].as_str().unwrap_or_default() == range)
            })
        };
        check("the pods of the start")?;
        lab.add_pod(nodescope_tests::lab::PodSpec::new("late", 0))?;
        check("one pod more")?;
        lab.remove_pod("late")?;
        check("the pods of the start again")?;
    }
    Ok(())
}

/// Scenario 4: every kind of address.
#[test]
fn scenario_04_addresses_are_classed() -> Result<()> {
    for model in models(4) {
        let Some(lab) = lab_of(model, "s04")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        let topology = lab.topology();
        let service = lab.service("default", "web")?.cluster_ip;
        let wanted: Vec<(IpAddr, &str)> = vec![
            (lab.pod("web")?.ip().into(), "pod"),
            (lab.pod("api")?.ip().into(), "pod"),
            (topology.nodes[0].ip.into(), "node"),
            (topology.nodes[1].ip.into(), "node"),
            (service.into(), "service"),
            (topology.dns.into(), "service"),
            (topology.gateway.into(), "vnet"),
            ("169.254.3.4".parse()?, "link-local"),
            ("168.63.129.16".parse()?, "platform"),
            ("169.254.169.254".parse()?, "platform"),
            ("192.0.2.7".parse()?, "external"),
            (topology.onprem.ip().into(), "external"),
        ];
        let mut args = vec!["node".to_owned(), "-o".to_owned(), "json".to_owned()];
        for (ip, _) in &wanted {
            args.extend(["--classify".to_owned(), ip.to_string()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        eventually("every address has its class", || {
            let text = String::from_utf8(agent.cli(&args)?.stdout)?;
            let said: Vec<Value> = text
                .lines()
                .map(serde_json::from_str)
                .collect::<Result<_, _>>()?;
            for ((ip, class), said) in wanted.iter().zip(&said) {
                anyhow::ensure!(
                    said["class"] == *class && said["ip"] == ip.to_string(),
                    "{model:?} {class}: {said}"
                );
            }
            Ok(said.len() == wanted.len())
        })?;
    }
    Ok(())
}

/// Scenario 5: what is masqueraded, and who says so; a flag goes before everything.
#[test]
fn scenario_05_masquerade_configuration_with_its_source() -> Result<()> {
    for model in models(5) {
        let Some(lab) = lab_of(model, "s05")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        configured(&agent, source_of(model))?;
        let ranges: Vec<String> = match lab.masq_config() {
            Some(config) => config
                .non_masquerade
                .iter()
                .map(ToString::to_string)
                .collect(),
            // The nodes' ranges, joined.
            None => vec!["10.244.0.0/23".to_owned()],
        };
        // The nodes are not all known at once.
        eventually("the ranges are as configured", || {
            let said = describe(&agent)?["masquerade"].clone();
            anyhow::ensure!(
                said["non_masquerade_cidrs"] == json!(ranges)
                    && said["link_local_masqueraded"] == true,
                "{model:?} {said}"
            );
            Ok(true)
        })?;
        let table = String::from_utf8(agent.cli(&["node"])?.stdout)?;
        let line = table.lines().find(|line| line.starts_with("Masquerade"));
        let line = line.context("no line about it")?;
        assert!(
            line.contains(&ranges[0]) && line.contains(source_of(model)),
            "{table}"
        );
    }
    let Some(lab) = lab_of(Model::Overlay, "s05f")? else {
        return Ok(());
    };
    let agent = lab.start_agent(0, &["--non-masquerade-cidr", "10.9.0.0/16"])?;
    configured(&agent, "--non-masquerade-cidr")?;
    let said = describe(&agent)?["masquerade"].clone();
    assert_eq!(said["non_masquerade_cidrs"], json!(["10.9.0.0/16"]));
    Ok(())
}

/// Without an API nothing is concluded about masquerade, and the mend is named.
#[test]
fn scenario_05_without_an_api_nothing_is_concluded() -> Result<()> {
    let Some(lab) = lab_of(Model::Kubenet, "s05n")? else {
        return Ok(());
    };
    let agent = lab.start_agent(0, &["--kubeconfig", "none", "--flow-interval", "500ms"])?;
    let web = lab.pod("web")?;
    get(
        &web.netns(),
        &format!("http://{}:8080/", lab.topology().vm.ip()),
    )?;
    let said = describe(&agent)?["masquerade"]["unknown"].to_string();
    assert!(said.contains("--non-masquerade-cidr"), "{said}");
    let record = crate::common::one(&agent, "the translated connection", |record| {
        record.ext("/nat/kind") == "snat"
    })?;
    assert_eq!(record.ext("/nat/expected"), "unknown");
    assert_eq!(record.ext("/nat/mismatch"), &Value::Null);
    Ok(())
}
