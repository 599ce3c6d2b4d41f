//! Scenarios 11 to 16: what becomes of a pod's address, against what is configured, in every
//! network model. The witnesses are conntrack and the servers' sockets.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use nodescope_tests::lab::{Agent, Lab, MasqConfig, Model, Pod, is_root};
use serde_json::Value;

use crate::common::{Record, agent, between, closed, counts, eventually, get, metric, models};

/// A lab of a model; none (said why) where it cannot be.
pub fn lab_of(model: Model, name: &str) -> Result<Option<Lab>> {
    if !is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(None);
    }
    let name = format!("{name}{}", model.short());
    let builder = Lab::builder(&name).topology(model);
    Ok(Some(builder.promiscuous_bridge(false).start()?))
}

/// Waits until the agent holds translations to a configuration from this source.
pub fn configured(agent: &Agent, source: &str) -> Result<()> {
    eventually(&format!("the masquerade configuration: {source}"), || {
        let node = describe(agent)?;
        let said = node["masquerade"]["source"].as_str().unwrap_or_default();
        Ok(said.contains(source))
    })
}

/// What `nodescope node -o json` says.
pub fn describe(agent: &Agent) -> Result<Value> {
    let out = agent.cli(&["node", "-o", "json"])?;
    let text = String::from_utf8_lossy(&out.stdout);
    serde_json::from_str(text.trim()).with_context(|| format!("node said {out:?}"))
}

/// Where a model's configuration comes from.
pub fn source_of(model: Model) -> &'static str {
    match model {
        Model::Kubenet => "kubenet default",
        Model::AzureCni | Model::Overlay => {
            "azure-ip-masq-agent-config and azure-ip-masq-agent-config-reconciled"
        }
    }
}

/// Gets `http://to:port/` from a pod: what the server's socket saw as the client, the client's
/// own end, and the agent's last record of it.
fn fetch(
    agent: &Agent,
    pod: &Pod,
    to: &str,
    port: u16,
) -> Result<(SocketAddr, SocketAddr, Record)> {
    let seen = get(&pod.netns(), &format!("http://{to}:{port}/"))?;
    let end = |name: &str| -> Result<SocketAddr> {
        Ok(seen[name]
            .as_str()
            .with_context(|| format!("no {name}"))?
            .parse()?)
    };
    let (local, peer) = (end("local")?, end("peer")?);
    let record = closed(agent, &format!("the connection to {to}"), |record| {
        between(record, &pod.ip().to_string(), to, port)
            && record.tuple("/nat/original").map(|(from, _)| from) == Some(local)
    })?;
    Ok((peer, local, record))
}

/// Holds a record against the client's and the server's sockets and conntrack: translated or
/// kept, as observed and as expected.
fn judged(
    lab: &Lab,
    record: &Record,
    local: SocketAddr,
    peer: SocketAddr,
    expected: &str,
) -> Result<()> {
    assert_eq!(record.remote_sees(), Some(peer), "{}", record.0);
    assert_eq!(record.ext("/nat/expected"), expected, "{}", record.0);
    let translated = peer.ip() != local.ip();
    assert_eq!(
        translated,
        expected == "translated",
        "the lab itself is not as configured"
    );
    assert_eq!(record.ext("/nat/mismatch"), &Value::Null, "{}", record.0);
    let cause = if translated { "masquerade" } else { "none" };
    assert_eq!(record.ext("/nat/cause"), cause);
    let entries = lab.conntrack(0)?;
    let entry = entries
        .iter()
        .find(|entry| SocketAddr::new(entry.original.src, entry.original.sport) == local)
        .context("conntrack has no entry")?;
    let far = entry.translated();
    assert_eq!(SocketAddr::new(far.src, far.sport), peer);
    Ok(())
}

/// Scenarios 11, 12 and 15: VM, on-premises and another pod, in every model.
#[test]
fn scenario_11_12_15_every_model_keeps_and_translates_as_configured() -> Result<()> {
    for model in models(11) {
        let Some(lab) = lab_of(model, "s12")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        configured(&agent, source_of(model))?;
        let web = lab.pod("web")?;
        let (vm, onprem) = (lab.topology().vm.ip(), lab.topology().onprem.ip());
        let in_vnet = match model {
            Model::AzureCni => "kept",
            Model::Kubenet | Model::Overlay => "translated",
        };
        let api = lab.pod("api")?.ip();
        for (to, expected) in [(vm, in_vnet), (onprem, "translated"), (api, "kept")] {
            let (peer, local, record) = fetch(&agent, &web, &to.to_string(), 8080)?;
            judged(&lab, &record, local, peer, expected)
                .with_context(|| format!("{model:?} {to}"))?;
        }
        assert_eq!(
            metric(&agent, "nodescope_snat_mismatch_total", &[])?,
            Some(0.0)
        );
    }
    Ok(())
}

/// Scenario 13: the metadata service sees the node or the pod.
#[test]
fn scenario_13_masq_link_local_decides_about_the_metadata_service() -> Result<()> {
    const METADATA: &str = "169.254.169.254";
    for model in models(13) {
        let Some(lab) = lab_of(model, "s13")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        configured(&agent, source_of(model))?;
        let web = lab.pod("web")?;
        let (peer, local, record) = fetch(&agent, &web, METADATA, 80)?;
        judged(&lab, &record, local, peer, "translated")?;
        let Some(config) = lab.masq_config() else {
            continue;
        };
        let config = MasqConfig {
            masq_link_local: false,
            ..config
        };
        lab.set_masq_config(&config, true)?;
        eventually("the agent knows that link-local is kept", || {
            let node = describe(&agent)?;
            Ok(node["masquerade"]["link_local_masqueraded"] == false)
        })?;
        let (peer, local, record) = fetch(&agent, &web, METADATA, 80)?;
        judged(&lab, &record, local, peer, "kept").with_context(|| format!("{model:?}"))?;
    }
    Ok(())
}

/// Scenario 14: edited, not applied; both sides are named, in the record, the metric and `nat`.
#[test]
fn scenario_14_a_config_map_edited_and_not_applied_is_a_mismatch() -> Result<()> {
    // kubenet has no ConfigMaps to edit.
    for model in models(14).into_iter().filter(|m| *m != Model::Kubenet) {
        let Some(lab) = lab_of(model, "s14")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        configured(&agent, source_of(model))?;
        let before = lab.masq_config().context("no configuration")?;
        let onprem = lab.topology().onprem.ip().to_string();
        let mut config = before.clone();
        config.non_masquerade.push("10.1.0.0/16".parse()?);
        lab.set_masq_config(&config, false)?;
        eventually("the agent knows the new range", || {
            let node = describe(&agent)?;
            Ok(node["masquerade"]["non_masquerade_cidrs"]
                .to_string()
                .contains("10.1.0.0/16"))
        })?;
        let web = lab.pod("web")?;
        let (peer, local, record) = fetch(&agent, &web, &onprem, 8080)?;
        assert_ne!(peer.ip(), local.ip(), "the rules are still the old ones");
        assert_eq!(record.ext("/nat/expected"), "kept", "{}", record.0);
        let side = |which: &str| record.ext(&format!("/nat/mismatch/{which}")).to_string();
        assert!(
            side("configured").contains("10.1.0.0/16 is not masqueraded (ConfigMap azure-ip-masq"),
            "{}",
            record.0
        );
        assert!(
            side("observed").contains(&format!("{local} was translated to {peer}")),
            "{}",
            record.0
        );
        counts(&agent, "nodescope_snat_mismatch_total", &[], 1.0)?;
        // Applied: the next connection is as configured.
        lab.set_masq_config(&config, true)?;
        let (peer, local, record) = fetch(&agent, &web, &onprem, 8080)?;
        judged(&lab, &record, local, peer, "kept")?;
        counts(&agent, "nodescope_snat_mismatch_total", &[], 1.0)?;
        // And the other way round: taken out of the ConfigMaps, still in the rules.
        lab.set_masq_config(&before, false)?;
        eventually("the agent knows that the range is gone", || {
            let node = describe(&agent)?;
            let ranges = node["masquerade"]["non_masquerade_cidrs"].to_string();
            Ok(!ranges.contains("10.1.0.0/16"))
        })?;
        let (peer, local, record) = fetch(&agent, &web, &onprem, 8080)?;
        assert_eq!(peer, local);
        assert_eq!(record.ext("/nat/expected"), "translated");
        let observed = record.ext("/nat/mismatch/observed").to_string();
        assert!(
            observed.contains(&format!("{local} was kept")),
            "{}",
            record.0
        );
    }
    Ok(())
}

/// Scenario 14 on kubenet, whose rule is a default: a rule removed is seen as well.
#[test]
fn scenario_14_a_masquerade_rule_removed_is_a_mismatch_on_kubenet() -> Result<()> {
    let Some(lab) = lab_of(Model::Kubenet, "s14")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    configured(&agent, "kubenet default")?;
    let out = lab
        .node(0)
        .tool(&["iptables", "-t", "nat", "-S", "POSTROUTING"], "")?;
    let rules = String::from_utf8(out.stdout)?;
    let rule = rules.lines().find(|line| line.ends_with("-j MASQUERADE"));
    let rule = rule
        .context("no masquerade rule")?
        .replacen("-A ", "-D ", 1);
    lab.node(0).tool(
        &["iptables-restore", "--noflush"],
        &format!("*nat\n{rule}\nCOMMIT\n"),
    )?;
    // The VNet has a route back to pods: the connection works all the same.
    let web = lab.pod("web")?;
    let vm = lab.topology().vm.ip().to_string();
    let (peer, local, record) = fetch(&agent, &web, &vm, 8080)?;
    assert_eq!(peer, local, "the lab still translates");
    assert_eq!(record.ext("/nat/expected"), "translated", "{}", record.0);
    assert!(record.ext("/nat/mismatch").is_object(), "{}", record.0);
    counts(&agent, "nodescope_snat_mismatch_total", &[], 1.0)?;
    Ok(())
}

/// Wrong YAML or a wrong range: no verdict, and the reason.
#[test]
fn scenario_14_a_config_map_that_is_wrong_gives_no_verdict() -> Result<()> {
    let Some(lab) = lab_of(Model::Overlay, "s14b")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    configured(&agent, source_of(Model::Overlay))?;
    let web = lab.pod("web")?;
    let onprem = lab.topology().onprem.ip().to_string();
    for (text, reason) in [
        ("NonMasqueradeCIDRs: [10.244.0.0/16", "no YAML"),
        ("NonMasqueradeCIDRs:\n- 10.244.0.0/99\n", "10.244.0.0/99"),
    ] {
        lab.control_plane()?.apply(serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "azure-ip-masq-agent-config", "namespace": "kube-system"},
            "data": {"ip-masq-agent": text},
        }))?;
        eventually("the agent says what is wrong", || {
            let node = describe(&agent)?;
            Ok(node["masquerade"]["unknown"].to_string().contains(reason))
        })?;
        let (_, _, record) = fetch(&agent, &web, &onprem, 8080)?;
        assert_eq!(record.ext("/nat/expected"), "unknown", "{}", record.0);
        assert!(
            record.ext("/nat/because").to_string().contains(reason),
            "{}",
            record.0
        );
        assert_eq!(
            metric(&agent, "nodescope_snat_mismatch_total", &[])?,
            Some(0.0)
        );
    }
    Ok(())
}

/// Scenario 10: a pod through its own service reaches itself, masqueraded by kube-proxy.
#[test]
fn scenario_10_hairpin_is_masqueraded_and_said_so() -> Result<()> {
    for model in models(10) {
        let Some(lab) = lab_of(model, "s10")? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        configured(&agent, source_of(model))?;
        let web = lab.pod("web")?;
        let service = lab.service("default", "web")?.cluster_ip.to_string();
        let (peer, local, record) = fetch(&agent, &web, &service, 80)?;
        assert_ne!(peer.ip(), local.ip(), "{model:?}");
        assert_eq!(record.remote_sees(), Some(peer), "{model:?} {}", record.0);
        let backend = SocketAddr::new(web.ip().into(), 8080);
        assert_eq!(record.tuple("/nat/translated"), Some((peer, backend)));
        assert_eq!(record.ext("/nat/kind"), "both");
        assert_eq!(
            record.ext("/nat/cause"),
            "hairpin",
            "{model:?} {}",
            record.0
        );
        assert_eq!(record.ext("/nat/expected"), "translated");
        assert_eq!(record.ext("/nat/mismatch"), &Value::Null);
        assert_eq!(record.ext("/scope"), "same-node");
    }
    Ok(())
}
