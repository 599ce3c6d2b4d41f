//! The lab itself: does the cluster that it builds behave as a real one of its network model
//! does, and does it leave nothing behind?

mod balancing;
mod lifecycle;
mod masquerade;
mod network;
mod probes;
mod topologies;
mod witnesses;

use std::time::Duration;

use anyhow::Result;
use nodescope_tests::lab::{self, Lab, LabBuilder, Model, Netns};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A lab, or none where it cannot be built.
fn start(name: &str, promiscuous: bool) -> Result<Option<Lab>> {
    if !lab::is_root() {
        eprintln!("skipped: needs root");
        return Ok(None);
    }
    let builder = Lab::builder(name).promiscuous_bridge(promiscuous);
    Ok(Some(builder.start()?))
}

/// A lab of that model, changed by `more`, or none where it cannot be built. Its load
/// balancer probes often, so that tests are short.
fn build(
    name: &str,
    model: Model,
    more: impl FnOnce(LabBuilder) -> LabBuilder,
) -> Result<Option<Lab>> {
    if !lab::is_root() {
        eprintln!("skipped: needs root");
        return Ok(None);
    }
    let builder = Lab::builder(&format!("{name}{}", model.short()))
        .topology(model)
        .promiscuous_bridge(false)
        .lb_probe(Duration::from_millis(100), 2);
    Ok(Some(more(builder).start()?))
}

/// What the client of an HTTP request saw, and what the server told it.
fn get(from: &Netns, args: &[&str]) -> Result<Value> {
    let all = [&["http-get"], args].concat();
    let line = from.run_lab(all)?.success()?;
    Ok(serde_json::from_str(&line)?)
}

fn ping(from: &Netns, to: &str) -> bool {
    let out = from.run(["ping", "-q", "-c", "1", "-W", "3", to]);
    out.is_ok_and(|out| out.status.success())
}

/// The address of `"10.224.0.4:60996"`.
fn address(value: &Value) -> &str {
    let text = value.as_str().unwrap_or_default();
    text.split_once(':').map_or(text, |(address, _)| address)
}
