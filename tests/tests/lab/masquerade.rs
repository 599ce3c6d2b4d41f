//! What leaves a node keeps or loses its address as the ip-masq-agent's configuration says.

use anyhow::{Context, Result};
use nodescope_tests::lab::{Lab, MasqConfig, Model};
use serde_json::Value;

use crate::{address, build, get};

/// The address that the metadata service sees of pod `web`.
fn metadata_sees(lab: &Lab) -> Result<String> {
    let web = lab.pod("web")?.netns();
    let seen = get(&web, &["http://169.254.169.254/metadata/instance"])?;
    let served = lab.served("platform")?;
    assert_eq!(served.last().context("none")?["peer"], seen["peer"]);
    Ok(address(&seen["peer"]).to_owned())
}

#[test]
fn azure_cni_keeps_the_pod_in_the_vnet_and_translates_outside() -> Result<()> {
    let Some(lab) = build("keep", Model::AzureCni, |lab| lab)? else {
        return Ok(());
    };
    let web = lab.pod("web")?;
    let (vm, onprem) = (lab.topology().vm.ip(), lab.topology().onprem.ip());
    let seen = get(&web.netns(), &[&format!("http://{vm}:8080/")])?;
    assert_eq!(seen["peer"], seen["local"], "the VM sees the pod");
    assert_eq!(
        lab.served("vm")?.last().context("none")?["peer"],
        seen["local"]
    );
    let seen = get(&web.netns(), &[&format!("http://{onprem}:8080/")])?;
    assert_eq!(address(&seen["peer"]), "10.220.2.4");
    let entries = lab.conntrack(0)?;
    let entry = entries.iter().find(|e| e.original.dst == onprem);
    let translated = entry.context("no entry")?.translated();
    let as_seen = format!("{}:{}", translated.src, translated.sport);
    assert_eq!(seen["peer"], as_seen.as_str());
    Ok(())
}

#[test]
fn link_local_is_translated_as_configured() -> Result<()> {
    let Some(lab) = build("local", Model::Overlay, |lab| lab)? else {
        return Ok(());
    };
    let (node, pod) = ("10.224.0.4", "10.244.0.15");
    assert_eq!(metadata_sees(&lab)?, node);
    let config = MasqConfig {
        masq_link_local: false,
        ..lab.masq_config().context("no configuration")?
    };
    // Edited and not applied: the ConfigMaps say one thing, the rules do another.
    lab.set_masq_config(&config, false)?;
    assert_eq!(metadata_sees(&lab)?, node);
    lab.set_masq_config(&config, true)?;
    assert_eq!(metadata_sees(&lab)?, pod);
    // The wire server's address is not link-local.
    let web = lab.pod("web")?.netns();
    let seen = get(&web, &["http://168.63.129.16/"])?;
    assert_eq!(address(&seen["peer"]), node);
    Ok(())
}

#[test]
fn both_config_maps_say_what_is_configured() -> Result<()> {
    let Some(lab) = build("maps", Model::Overlay, |lab| lab)? else {
        return Ok(());
    };
    let map = |name: &str| -> Result<Value> {
        let config = lab.kubeconfig_path().context("no API server")?;
        let config = config.display().to_string();
        let argv = ["kubectl", "--kubeconfig", &config, "-n", "kube-system"];
        let argv = [&argv[..], &["get", "configmap", name, "-o", "json"]].concat();
        let out = std::process::Command::new(argv[0])
            .args(&argv[1..])
            .output()?;
        Ok(serde_json::from_slice(&out.stdout)?)
    };
    let (own, reconciled) = (
        "azure-ip-masq-agent-config",
        "azure-ip-masq-agent-config-reconciled",
    );
    let text = "NonMasqueradeCIDRs:\n  - 10.244.0.0/16\nMasqLinkLocal: true\n";
    assert_eq!(map(own)?["data"]["ip-masq-agent"], text);
    assert_eq!(map(reconciled)?["data"]["ip-masq-agent-reconciled"], text);
    let none = MasqConfig {
        non_masquerade: Vec::new(),
        masq_link_local: true,
    };
    lab.set_masq_config(&none, false)?;
    let text = "NonMasqueradeCIDRs: []\nMasqLinkLocal: true\n";
    assert_eq!(map(own)?["data"]["ip-masq-agent"], text);
    Ok(())
}
