//! The lab on a real kube-apiserver, kube-controller-manager and kube-proxy: does everything
//! work there, and does what the lab does by itself agree with them?

mod agreement;
mod cluster;
mod rights;

use std::time::Duration;

use anyhow::Result;
use nodescope_tests::lab::{self, Lab, LabBuilder, Netns};
use nodescope_tests::real::{Assets, ENV_ASSETS};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A lab on a real control plane, or none (said why) where it cannot be.
fn real(name: &str) -> Result<Option<Lab>> {
    real_with(name, |builder| builder)
}

/// As [`real`], changed by `adjust`.
fn real_with(name: &str, adjust: impl FnOnce(LabBuilder) -> LabBuilder) -> Result<Option<Lab>> {
    if !lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(None);
    }
    if Assets::find()?.is_none() {
        println!("skipped: {ENV_ASSETS} is not set");
        return Ok(None);
    }
    let builder = Lab::builder(name).promiscuous_bridge(false).real();
    Ok(Some(adjust(builder).start()?))
}

/// What the client of an HTTP request saw, and what the server told it.
fn get(from: &Netns, args: &[&str]) -> Result<Value> {
    let line = from.run_lab([&["http-get"], args].concat())?.success()?;
    Ok(serde_json::from_str(&line)?)
}

/// Waits for a condition that can fail to be looked at.
fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    lab::wait_for(what, TIMEOUT, || condition().unwrap_or(false))
}

/// Runs kubectl on the machine with the lab's kubeconfig.
fn kubectl(lab: &Lab, args: &[&str]) -> Result<String> {
    let path = lab.kubeconfig_path().unwrap_or_default();
    let output = std::process::Command::new("kubectl")
        .args(args)
        // Its caches of what servers serve go by address, and addresses here come again.
        .env("HOME", lab.run_dir())
        .arg("--kubeconfig")
        .arg(path)
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "kubectl {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
