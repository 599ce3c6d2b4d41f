//! The agent with the rights that `deploy/` gives it, and no others.

use std::path::PathBuf;

use anyhow::{Context, Result};
use nodescope_tests::real::ApiClient;
use serde_json::json;

use crate::{eventually, get, real};

/// The agent names flows with what it may read; secrets it may not, and change nothing.
#[test]
fn the_agent_has_the_rights_of_its_role_and_needs_no_more() -> Result<()> {
    let Some(lab) = real("rrights")? else {
        return Ok(());
    };
    let mut agent = lab.start_agent(0, &["--flow-interval", "500ms"])?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let service = lab.service("default", "api")?.cluster_ip;
    eventually("a flow with all its names", || {
        get(&web.netns(), &[&format!("http://{service}/")])?;
        Ok(agent.flows()?.iter().any(|record| {
            let flow = &record["flow"];
            flow["source"]["pod_name"] == web.name()
                && flow["destination"]["pod_name"] == api.name()
                && flow["destination_service"]["name"] == "api"
        }))
    })?;
    let denied = agent.metrics()?;
    let denied = denied.lines().find(|line| {
        line.starts_with("nodescope_kube_watch_errors_total") && !line.ends_with(" 0")
    });
    assert_eq!(denied, None, "the API server refused something");
    agent.stop()?;

    let path = lab.node_kubeconfig_path().context("no kubeconfig")?;
    let as_outside = std::fs::read_to_string(path)?;
    let url = lab.kubeconfig_path().context("no kubeconfig")?;
    let server = |text: &str| {
        let line = text.lines().find(|line| line.trim().starts_with("server:"));
        line.map(|line| line.trim().to_owned())
    };
    let outside = server(&std::fs::read_to_string(url)?).context("no server")?;
    let inside = server(&as_outside).context("no server")?;
    let agent = ApiClient::new(&as_outside.replace(&inside, &outside))?;
    for allowed in ["/api/v1/pods", "/api/v1/nodes", "/api/v1/services"] {
        assert!(!agent.list(allowed)?.is_empty(), "{allowed}");
    }
    for (path, what) in [
        ("/api/v1/secrets", "secrets"),
        ("/api/v1/namespaces/kube-system/serviceaccounts", "accounts"),
    ] {
        let Err(error) = agent.list(path) else {
            panic!("the agent may read {what}");
        };
        assert!(format!("{error:#}").contains("forbidden"), "{error:#}");
    }
    let pod = format!("/api/v1/namespaces/default/pods/{}", web.name());
    assert!(agent.delete(&pod).is_err(), "the agent may delete pods");
    Ok(())
}

/// The token in the file is replaced, and the old one is good no more, as when the account is made
/// anew: whatever breaks the agent's connections next, it comes back with the new one.
#[test]
fn a_token_that_is_rotated_is_followed() -> Result<()> {
    let Some(lab) = real("rtoken")? else {
        return Ok(());
    };
    let read = |path: Option<PathBuf>| -> Result<String> {
        Ok(std::fs::read_to_string(path.context("no kubeconfig")?)?)
    };
    let inside = read(lab.node_kubeconfig_path())?;
    let line = |text: &str, key: &str| {
        let mut lines = text.lines().map(str::trim);
        let found = lines.find(|line| line.starts_with(key)).map(str::to_owned);
        found.with_context(|| format!("no {key}"))
    };
    let old = line(&inside, "token:")?;
    let token = lab.run_dir().join("token");
    std::fs::write(&token, old.trim_start_matches("token:").trim())?;
    let kubeconfig = lab.run_dir().join("rotated.kubeconfig");
    let named = format!("tokenFile: {}", token.display());
    std::fs::write(&kubeconfig, inside.replace(&old, &named))?;
    let kubeconfig = kubeconfig.display().to_string();
    let agent = lab.start_agent(0, &["--kubeconfig", &kubeconfig])?;
    let pods = || -> Result<usize> {
        let metrics = agent.metrics()?;
        let name = "nodescope_kube_objects{kind=\"pods\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(name));
        Ok(count.context("no count of pods")?.parse()?)
    };
    let real = lab.real().context("no real API server")?;
    let before = real.admin().list("/api/v1/pods")?.len();
    eventually("all pods are known", || Ok(pods()? == before))?;

    // An API server remembers for some seconds that a token was good.
    let next = real.renew_agent_token()?;
    let outside = line(&read(lab.kubeconfig_path())?, "server:")?;
    let with_old = ApiClient::new(&inside.replace(&line(&inside, "server:")?, &outside))?;
    eventually("the old token is refused", || {
        let refused = with_old.list("/api/v1/pods");
        Ok(refused.is_err_and(|error| format!("{error:#}").contains("401")))
    })?;
    std::fs::write(&token, next)?;
    let add = |name: &str| {
        lab.control_plane()?.apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "i"}]},
        }))
    };
    let reset = |how: &str| {
        let rule = ["iptables", "-w", how, "INPUT", "-i", "lo", "-p", "tcp"];
        let with = [
            "--dport",
            "6443",
            "-j",
            "REJECT",
            "--reject-with",
            "tcp-reset",
        ];
        lab.node(0).tool(&[&rule[..], &with].concat(), "")
    };
    // What the agent answers to the news is answered with a reset.
    reset("-I")?;
    add("first")?;
    eventually("a connection breaks", || {
        Ok(agent.log().contains("names stay as last known"))
    })?;
    reset("-D")?;
    add("second")?;
    eventually("the news come", || Ok(pods()? == before + 2))?;
    assert!(!agent.log().contains("401"), "{}", agent.log());
    Ok(())
}
