//! The agent with the rights that `deploy/` gives it, and no others.

use anyhow::{Context, Result};
use nodescope_tests::real::ApiClient;

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
