//! What the scenarios share: a lab with agents, and a look at their records.

use anyhow::{Context, Result, bail, ensure};
pub use nodescope_tests::identity::sample;
use nodescope_tests::lab::{self, Agent, BothWays, Lab, Model, Netns};
pub use nodescope_tests::lab::{PATIENCE, eventually};
use nodescope_tests::real;
pub use nodescope_tests::records::{Record, number};
use serde_json::Value;

/// A lab of that name, or none (said why) where it cannot be.
pub fn lab(name: &str) -> Result<Option<Lab>> {
    build(name, Model::Kubenet, false)
}

/// As [`lab`], with the network of a model.
pub fn of_model(name: &str, model: Model) -> Result<Option<Lab>> {
    build(&format!("{name}{}", model.short()), model, false)
}

/// The models to play scenario `number` in: all of them. On a real control plane, which knows
/// nothing of models and whose labs cost the most, the one that the number chooses.
pub fn models(number: usize) -> Vec<Model> {
    let all = Model::ALL;
    match real::is_asked_for() {
        true => vec![all[number % all.len()]],
        false => all.to_vec(),
    }
}

/// The interfaces from one to the other within a node: kubenet has its bridge between them.
pub fn way<'a>(model: Model, from: &'a str, to: &'a str) -> Vec<&'a str> {
    match model {
        Model::Kubenet => vec![from, "cbr0", to],
        Model::AzureCni | Model::Overlay => vec![from, to],
    }
}

/// As [`of_model`], with the bridges (where there are any) promiscuous or not.
/// `NODESCOPE_LAB=real` puts every lab on a real control plane.
pub fn build(name: &str, model: Model, promiscuous: bool) -> Result<Option<Lab>> {
    if !lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(None);
    }
    if real::is_asked_for() && real::Assets::find()?.is_none() {
        println!("skipped: {} is not set", real::ENV_ASSETS);
        return Ok(None);
    }
    Ok(Some(
        Lab::builder(name)
            .topology(model)
            .promiscuous_bridge(promiscuous)
            .start()?,
    ))
}

/// An agent that reports often, and knows the cluster.
pub fn agent(lab: &Lab, node: usize) -> Result<Agent> {
    let agent = lab.start_agent(node, &["--flow-interval", "500ms"])?;
    synced(&agent)?;
    Ok(agent)
}

/// Waits until the agent knows the objects of the API, of every kind.
pub fn synced(agent: &Agent) -> Result<()> {
    eventually("the agent knows the cluster", || {
        let output = agent.cli(&["node", "-o", "json"])?;
        ensure!(output.status.success(), "nodescope node failed");
        let node: Value = serde_json::from_slice(&output.stdout)?;
        Ok(node["api"]["state"] == "synced")
    })
}

/// What tcpdump saw of an interface, in the form of [`Hop::both_ways`].
pub fn counted((ingress, egress): &BothWays) -> [(u64, u64); 2] {
    [
        (ingress.packets(), ingress.bytes()),
        (egress.packets(), egress.bytes()),
    ]
}

/// All records of connections that an agent wrote until now.
pub fn records(agent: &Agent) -> Result<Vec<Record>> {
    let all = agent.flows()?.into_iter().map(Record);
    Ok(all.filter(|record| record.event() != "drop").collect())
}

/// All records of packets that died.
pub fn losses(agent: &Agent) -> Result<Vec<Record>> {
    let all = agent.flows()?.into_iter().map(Record);
    Ok(all.filter(|record| record.event() == "drop").collect())
}

/// The last record of the one connection for which `choose` holds, once it is closed. More than
/// one such connection is an error.
pub fn closed(agent: &Agent, what: &str, choose: impl Fn(&Record) -> bool) -> Result<Record> {
    let last = one(agent, what, |record| {
        record.event() == "close" && choose(record)
    })?;
    let ids: std::collections::BTreeSet<String> = records(agent)?
        .iter()
        .filter(|record| choose(record))
        .map(|record| record.ext("/connection").to_string())
        .collect();
    if ids.len() != 1 {
        bail!("{what}: {} connections instead of one: {ids:?}", ids.len());
    }
    Ok(last)
}

/// Waits for a record for which `choose` holds, and gives the newest.
pub fn one(agent: &Agent, what: &str, choose: impl Fn(&Record) -> bool) -> Result<Record> {
    let mut found = None;
    let outcome = eventually(what, || {
        found = records(agent)?.into_iter().rev().find(&choose);
        Ok(found.is_some())
    });
    match (found, outcome) {
        (Some(record), _) => Ok(record),
        (None, Err(error)) => {
            let all = records(agent)?;
            let last = all.iter().rev().take(8).map(|record| record.0.to_string());
            let last: Vec<_> = last.collect();
            Err(error.context(format!("newest records: {}", last.join("\n"))))
        }
        (None, Ok(())) => bail!("{what}: gone again"),
    }
}

/// Whether a record's original tuple is from and to these addresses (any port), TCP.
pub fn between(record: &Record, from: &str, to: &str, port: u16) -> bool {
    record.tuple("/nat/original").is_some_and(|(src, dst)| {
        src.ip().to_string() == from && dst.ip().to_string() == to && dst.port() == port
    })
}

/// The answer of the lab's HTTP server: what its socket saw.
pub fn get(from: &Netns, url: &str) -> Result<Value> {
    let line = from.run_lab(["http-get", url])?.success()?;
    serde_json::from_str(&line).with_context(|| format!("http-get said {line:?}"))
}

/// A sample of the agent's metrics: the sum over those with these labels.
pub fn metric(agent: &Agent, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
    sample(&agent.metrics()?, name, labels)
}

/// Waits until a sample is so much: a record and the counter of the same thing are not written at
/// the same moment.
pub fn counts(agent: &Agent, name: &str, labels: &[(&str, &str)], wanted: f64) -> Result<()> {
    eventually(&format!("{name} {labels:?} is {wanted}"), || {
        let now = metric(agent, name, labels)?;
        ensure!(now == Some(wanted), "it is {now:?}");
        Ok(true)
    })
}
