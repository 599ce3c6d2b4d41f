//! Installed on a real API server, and uninstalled.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nodescope_tests::deployed::{Deployed, folder, texts};
use nodescope_tests::lab::{self, Lab};
use nodescope_tests::real::{Assets, ENV_ASSETS};

use crate::{deployed, eventually, observed};

type Right = (String, String, String);

/// Runs kubectl on the machine with the lab's kubeconfig.
fn kubectl(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = Command::new("kubectl")
        .args(args)
        // Its caches of what servers serve go by address, and addresses here come again.
        .env("HOME", lab.run_dir())
        .arg("--kubeconfig")
        .arg(lab.kubeconfig_path().unwrap_or_default())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("kubectl {}: {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What the roles of an installation allow.
fn granted(deployed: &Deployed) -> BTreeSet<Right> {
    let roles = deployed
        .of_kind("Role")
        .chain(deployed.of_kind("ClusterRole"));
    let rules = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten());
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    all.insert((verb.to_owned(), group.to_owned(), resource.to_owned()));
                }
            }
        }
    }
    all
}

/// `kubectl apply -k deploy/`, the pods of the DaemonSet on both nodes, `kubectl delete -k deploy/`.
#[test]
fn an_installation_works_and_leaves_nothing_behind() -> Result<()> {
    if Assets::find()?.is_none() {
        println!("skipped: {ENV_ASSETS} is not set");
        return Ok(());
    }
    let Some((deployed, image)) = deployed()? else {
        return Ok(());
    };
    let lab = Lab::builder("dinstall")
        .promiscuous_bridge(false)
        .real()
        .start()?;
    let deploy = folder().display().to_string();
    kubectl(&lab, &["apply", "-k", &deploy])?;

    let pod = deployed.pod()?;
    let mut agents = vec![pod.start(&lab, 0, &image)?, pod.start(&lab, 1, &image)?];
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let service = lab.service("default", "api")?.cluster_ip;
    for one in &agents {
        eventually("a flow with all its names", || {
            web.run_lab(["http-get", &format!("http://{service}/")])?
                .success()?;
            Ok(observed(&one.agent)?.iter().any(|record| {
                let flow = &record["flow"];
                flow["source"]["pod_name"] == web.name()
                    && flow["destination"]["pod_name"] == api.name()
            }))
        })?;
        let metrics = one.agent.metrics()?;
        let refused = metrics.lines().find(|line| {
            line.starts_with("nodescope_kube_watch_errors_total") && !line.ends_with(" 0")
        });
        assert_eq!(refused, None);
    }

    // An update: the DaemonSet is there, so what is pinned stays.
    let folder = lab.bpffs()?;
    let pinned = || -> Result<usize> { Ok(std::fs::read_dir(&folder).map_or(0, Iterator::count)) };
    let nodes = pinned()?;
    assert_eq!(nodes, 2, "a folder for each node");
    agents[0].agent.stop()?;
    assert_eq!(pinned()?, 2, "{}", agents[0].agent.log());
    drop(agents.remove(0));
    agents.insert(0, pod.start(&lab, 0, &image)?);

    let plane = lab.control_plane()?.real();
    let plane = plane.context("no real control plane")?;
    let asked = plane.asked_by_agent()?;
    assert_eq!(asked, granted(&deployed), "asked for, and allowed");

    kubectl(&lab, &["delete", "-k", &deploy, "--wait=false"])?;
    for one in &mut agents {
        one.agent.stop()?;
    }
    assert_eq!(pinned()?, 0, "{}", agents[0].agent.log());
    for (node, links) in [(0, lab.node(0)), (1, lab.node(1))] {
        let all = links.tool(&["tc", "qdisc", "show"], "")?;
        let all = String::from_utf8(all.stdout)?;
        assert!(!all.contains("clsact"), "node {node}: {all}");
    }
    Ok(())
}

/// A real API server takes the objects of every overlay whose kinds it knows.
#[test]
fn every_overlay_applies() -> Result<()> {
    if !lab::is_root() || Assets::find()?.is_none() {
        println!("skipped: needs root and {ENV_ASSETS}");
        return Ok(());
    }
    if Deployed::render("")?.is_none() {
        return Ok(());
    }
    let lab = Lab::builder("doverlay")
        .promiscuous_bridge(false)
        .real()
        .start()?;
    for overlay in [
        "kubenet",
        "azure-cni",
        "overlay",
        "with-hubble-relay-and-ui",
    ] {
        let path = folder().join("overlays").join(overlay);
        kubectl(&lab, &["apply", "-k", &path.display().to_string()])?;
    }
    let can = |verb: &str, what: &str| {
        let who = "--as=system:serviceaccount:nodescope:nodescope";
        kubectl(&lab, &["auth", "can-i", verb, what, who, "-A"]).is_ok()
    };
    assert!(can("watch", "endpointslices.discovery.k8s.io"));
    assert!(!can("get", "secrets"));
    Ok(())
}
