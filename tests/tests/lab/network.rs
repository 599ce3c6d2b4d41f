//! Packets go where a kubenet cluster sends them.

use anyhow::{Context, Result};
use nodescope_tests::lab::{self, wait_for};
use serde_json::Value;

use crate::{TIMEOUT, address, get, ping, start};

#[test]
fn everything_reaches_everything_with_the_bridge_promiscuous_and_not() -> Result<()> {
    for promiscuous in [true, false] {
        let Some(lab) = start("reach", promiscuous)? else {
            return Ok(());
        };
        let web = lab.pod("web")?;
        for pod in lab.pods() {
            assert!(ping(&web.netns(), &pod.ip().to_string()), "web → {pod:?}");
        }
        for to in [
            "10.224.1.2",
            "10.1.2.3",
            "168.63.129.16",
            "169.254.169.254",
            "10.224.0.5",
        ] {
            assert!(ping(&web.netns(), to), "web → {to}");
        }
        assert!(ping(&lab.vm(), "10.244.1.15"), "VM → api, by route table");
        assert!(ping(&lab.node(0), "10.244.1.15"), "node0 → api");
        assert!(ping(&lab.onprem(), "10.224.0.4"), "on-premises → node0");

        // Pods keep their address among each other, and lose it on the way out.
        for to in ["10.244.0.16", "10.244.1.15"] {
            let seen = get(&web.netns(), &[&format!("http://{to}:8080/")])?;
            assert_eq!(seen["peer"], seen["local"], "web → {to}");
        }
        for to in ["10.224.1.2", "10.1.2.3"] {
            let seen = get(&web.netns(), &[&format!("http://{to}:8080/")])?;
            assert_eq!(address(&seen["local"]), "10.244.0.15");
            assert_eq!(address(&seen["peer"]), "10.224.0.4", "web → {to}");
        }
    }
    Ok(())
}

#[test]
fn services_names_and_hairpin() -> Result<()> {
    let Some(lab) = start("services", false)? else {
        return Ok(());
    };
    let web = lab.pod("web")?;
    // By name: DNS through its ClusterIP to a pod on the same node, then the service.
    for (service, backend) in [("web2", "10.244.0.16"), ("api", "10.244.1.15")] {
        let url = format!("http://{service}.default.svc.cluster.local/");
        let seen = get(&web.netns(), &[&url, "--dns", "10.0.0.10"])?;
        assert_eq!(seen["peer"], seen["local"], "no masquerade to {service}");
        let entries = lab.conntrack(0)?;
        let local = seen["local"].as_str().context("no address")?;
        let entry = entries
            .iter()
            .find(|e| format!("{}:{}", e.original.src, e.original.sport) == local)
            .context("no entry")?;
        assert_eq!(entry.translated().dst.to_string(), backend);
        assert_eq!(entry.translated().dport, 8080);
    }
    // To itself through its own service: kube-proxy masquerades it.
    let seen = get(&web.netns(), &["http://10.0.37.21/"])?;
    assert_eq!(address(&seen["peer"]), "10.244.0.1");

    let query = |name: &str| -> Result<Value> {
        let args = ["dns-query", name, "--server", "10.0.0.10"];
        let line = web.run_lab(args)?.success()?;
        Ok(serde_json::from_str(&line)?)
    };
    assert_eq!(query("db.corp.example.com")?["answers"][0], "10.1.2.3");
    assert_eq!(query("no-such.example.com")?["rcode"], "NXDOMAIN");
    Ok(())
}

#[test]
fn a_missing_route_cuts_the_nodes_apart() -> Result<()> {
    let Some(lab) = start("route", true)? else {
        return Ok(());
    };
    let web = lab.pod("web")?.netns();
    assert!(ping(&web, "10.244.1.15"));
    lab.remove_route("10.244.1.0/24")?;
    assert!(!ping(&web, "10.244.1.15"));
    assert!(ping(&web, "10.244.0.16"), "the same node is not affected");
    lab.restore_route("10.244.1.0/24")?;
    assert!(ping(&web, "10.244.1.15"));
    Ok(())
}

#[test]
fn two_pods_with_one_source_port_get_different_translations() -> Result<()> {
    let Some(lab) = start("collide", true)? else {
        return Ok(());
    };
    let _server = lab.serve(&lab.vm(), &["serve-echo", "--tcp", "0.0.0.0:7000"])?;
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let line = "tcp-send 10.224.1.2:7000 --source-port 40000 --count 1000 --interval 0.01";
    let args = lab::lab_command(line.split(' '))?;
    let _first = lab.spawn(&web.netns(), &args)?;
    let _second = lab.spawn(&web2.netns(), &args)?;
    let established = || -> Vec<lab::Tuple> {
        let entries = lab.conntrack(0).unwrap_or_default().into_iter();
        entries
            .filter(|e| e.original.sport == 40000 && e.state.as_deref() == Some("ESTABLISHED"))
            .map(|e| e.translated())
            .collect()
    };
    wait_for("both connections", TIMEOUT, || established().len() == 2)?;
    let both = established();
    assert_eq!(both[0].src, both[1].src);
    assert_ne!(both[0].sport, both[1].sport);
    Ok(())
}

#[test]
fn a_round_of_traffic_plays() -> Result<()> {
    let Some(lab) = start("play", true)? else {
        return Ok(());
    };
    for played in lab.play()? {
        assert!(played.error.is_none(), "{played:?}");
    }
    Ok(())
}
