//! The agent with the capabilities of the DaemonSet, and with each of them taken away.

use anyhow::{Context, Result};
use nodescope_tests::deployed::{Deployed, with_only};
use nodescope_tests::lab::{self, Lab};

use crate::eventually;

#[test]
fn each_capability_is_needed_and_named_when_it_is_not_there() -> Result<()> {
    if !lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(());
    }
    let Some(deployed) = Deployed::render("")? else {
        return Ok(());
    };
    let pod = deployed.pod()?;
    let all = pod.capabilities();
    let lab = Lab::builder("dprivs").start()?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    for missing in [None].into_iter().chain(all.iter().map(|one| Some(*one))) {
        let left: Vec<_> = all
            .iter()
            .copied()
            .filter(|one| Some(*one) != missing)
            .collect();
        let under = with_only(&left);
        let under: Vec<&str> = under.iter().map(String::as_str).collect();
        let started = lab.start_agent_under(0, &under, &["--flow-interval", "300ms"]);
        let text = match (missing, started) {
            (Some("PERFMON"), agent) => {
                // It does without, and says so.
                agent?.log()
            }
            (Some(name), Ok(agent)) => panic!("it runs without {name}: {}", agent.log()),
            (Some(_), Err(error)) => format!("{error:#}"),
            (None, agent) => {
                let mut agent = agent?;
                web.run_lab(["http-get", &format!("http://{}:8080/", api.ip())])?
                    .success()?;
                eventually("a flow", || {
                    let flows = agent.flows()?;
                    Ok(flows
                        .iter()
                        .any(|one| one["flow"]["IP"]["destination"] == api.ip().to_string()))
                })?;
                let log = agent.log();
                agent.stop()?;
                log
            }
        };
        for name in &all {
            let named = text.contains(&format!("CAP_{name}"));
            assert_eq!(named, Some(*name) == missing, "without {missing:?}: {text}");
        }
    }
    Ok(())
}

/// The service account cannot read what it is not for; the rest is in `install`.
#[test]
fn the_agent_reads_no_file_of_the_node_but_those_of_the_manifest() -> Result<()> {
    let Some(deployed) = Deployed::render("")? else {
        return Ok(());
    };
    let spec = deployed.pod()?.spec;
    let account = spec["automountServiceAccountToken"].as_bool();
    // It is the agent's way to the API.
    assert_ne!(account, Some(false));
    let mounts = deployed.pod()?.container()["volumeMounts"].clone();
    let mounts = mounts.as_array().context("no mounts")?;
    let mut paths: Vec<_> = mounts
        .iter()
        .filter_map(|one| one["mountPath"].as_str())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/etc/nodescope", "/run/nodescope", "/sys/fs/bpf"]);
    Ok(())
}
