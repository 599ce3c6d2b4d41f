//! Each network model has its interfaces, routes and addresses, and carries packets.

use anyhow::{Context, Result};
use nodescope_tests::lab::{MasqConfig, Model, Topology};

use crate::{TIMEOUT, address, build, get, ping};

#[test]
fn everything_reaches_everything_without_a_bridge() -> Result<()> {
    for model in [Model::AzureCni, Model::Overlay] {
        let Some(lab) = build("reach", model, |lab| lab)? else {
            return Ok(());
        };
        let (web, topology) = (lab.pod("web")?, lab.topology());
        let mut targets: Vec<String> = lab.pods().iter().map(|p| p.ip().to_string()).collect();
        targets.extend(topology.nodes.iter().map(|node| node.ip.to_string()));
        targets.extend(topology.platform.iter().map(ToString::to_string));
        targets.push(topology.vm.ip().to_string());
        targets.push(topology.onprem.ip().to_string());
        for to in targets {
            assert!(ping(&web.netns(), &to), "{model:?}: web → {to}");
        }
        let api = lab.pod("api")?.ip().to_string();
        assert!(
            ping(&lab.vm(), &api),
            "{model:?}: the VNet delivers to pods"
        );
        assert!(ping(&lab.node(0), &api), "{model:?}: node0 → api");
        // Pods keep their address among each other, by address and through a service.
        for to in [format!("{api}:8080"), service(&lab, "api")?] {
            let seen = get(&web.netns(), &[&format!("http://{to}/")])?;
            assert_eq!(seen["peer"], seen["local"], "{model:?}: web → {to}");
        }
        // To itself through its own service, routed by the host: its gateway's address.
        let seen = get(
            &web.netns(),
            &[&format!("http://{}/", service(&lab, "web")?)],
        )?;
        assert_ne!(seen["peer"], seen["local"]);
        let node = topology.nodes[0].ip.to_string();
        assert_eq!(address(&seen["peer"]), node, "{model:?}: hairpin");
        for played in lab.play()? {
            assert!(played.error.is_none(), "{model:?}: {played:?}");
        }
    }
    Ok(())
}

fn service(lab: &nodescope_tests::lab::Lab, name: &str) -> Result<String> {
    Ok(lab.service("default", name)?.cluster_ip.to_string())
}

#[test]
fn the_host_side_of_azure_cni_is_as_on_a_node() -> Result<()> {
    for model in [Model::AzureCni, Model::Overlay] {
        let Some(lab) = build("wires", model, |lab| lab)? else {
            return Ok(());
        };
        let (web, node) = (lab.pod("web")?, lab.node(0));
        let host = web.host_interface();
        let (prefix, digits) = host.split_at(3);
        assert_eq!((prefix, digits.len()), ("azv", 11));
        assert!(digits.bytes().all(|c| c.is_ascii_hexdigit()));
        let links = node.ip_json(&["-d", "link"])?;
        let links = links.as_array().context("no links")?;
        assert!(links.iter().all(|l| l["linkinfo"]["info_kind"] != "bridge"));
        let route = node.ip_json(&["route", "get", &web.ip().to_string()])?;
        assert_eq!(route[0]["dev"], host);
        let route = web.netns().ip_json(&["route"])?;
        assert_eq!(route[0]["gateway"], "169.254.1.1", "{route}");
        // Nodes know each other by the network's own hardware address.
        assert!(ping(&node, &lab.topology().nodes[1].ip.to_string()));
        let neighbours = node.ip_json(&["neigh", "show", "dev", "eth0"])?;
        let neighbours = neighbours.as_array().context("none")?;
        let addresses = neighbours.iter().filter_map(|n| n["lladdr"].as_str());
        assert!(addresses.clone().count() > 0);
        assert!(addresses.into_iter().all(|mac| mac == "12:34:56:78:9a:bc"));
    }
    Ok(())
}

#[test]
fn the_showcase_plays_in_every_model_with_agents() -> Result<()> {
    for model in Model::ALL {
        let Some(lab) = build("show", model, |lab| lab.showcase())? else {
            return Ok(());
        };
        let mut agent = lab.start_agent(0, &[])?;
        for played in lab.play()? {
            assert!(played.error.is_none(), "{model:?}: {played:?}");
        }
        let web = lab.pod("web")?;
        agent.stop()?;
        let hop = format!("\"{}\"", web.host_interface());
        let flows = agent.flows()?;
        assert!(flows.iter().any(|flow| flow.to_string().contains(&hop)));
    }
    Ok(())
}

#[test]
fn addresses_are_those_of_the_models() -> Result<()> {
    let cni = Topology::azure_cni();
    assert!(cni.nodes.iter().all(|node| node.pod_cidr.is_none()));
    assert!(cni.subnet.contains(&cni.pod_ip(1, 0)));
    assert_eq!(cni.dns.to_string(), "10.200.0.10");
    let config = MasqConfig::of(&cni).context("none")?;
    assert_eq!(config.non_masquerade[0].to_string(), "10.220.0.0/16");
    let overlay = Topology::overlay();
    assert_eq!(overlay.pod_ip(0, 13).to_string(), "10.244.0.15");
    assert_eq!(MasqConfig::of(&Topology::kubenet()), None);
    Ok(())
}

#[test]
fn a_pod_of_the_subnet_comes_and_goes_with_its_route() -> Result<()> {
    let Some(lab) = build("subnet", Model::AzureCni, |lab| lab)? else {
        return Ok(());
    };
    lab.scale("api", 2)?;
    let copy = lab.pod("api-r1")?;
    let (vm, ip) = (lab.vm(), copy.ip().to_string());
    assert!(ping(&vm, &ip));
    lab.remove_route(&format!("{ip}/32"))?;
    assert!(!ping(&vm, &ip));
    lab.restore_route(&format!("{ip}/32"))?;
    assert!(ping(&vm, &ip));
    lab.scale("api", 1)?;
    let routes = lab.fabric().ip_json(&["route"])?.to_string();
    assert!(!routes.contains(&ip), "{routes}");
    nodescope_tests::lab::wait_for("the address to be gone", TIMEOUT, || !ping(&vm, &ip))
}
