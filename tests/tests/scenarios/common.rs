//! What the scenarios share: a lab with agents, and a look at their records.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nodescope_tests::lab::{self, Agent, BothWays, Lab, Model, Netns};
use nodescope_tests::real;
use serde_json::Value;

/// How long a record may take to appear: far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(30);

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

/// Waits for a condition that can fail to be looked at.
pub fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut last = None;
    let outcome = lab::wait_for(what, PATIENCE, || match condition() {
        Ok(holds) => holds,
        Err(error) => {
            last = Some(error);
            false
        }
    });
    match (outcome, last) {
        (Err(timeout), Some(error)) => Err(timeout.context(format!("at last: {error:#}"))),
        (outcome, _) => outcome,
    }
}

/// One flow record, read as INTERFACE says it is written.
#[derive(Clone, Debug)]
pub struct Record(pub Value);

impl Record {
    /// A field of the flow.
    pub fn flow(&self, pointer: &str) -> &Value {
        self.0["flow"].pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A field of the extension.
    pub fn ext(&self, pointer: &str) -> &Value {
        self.0["flow"]["extensions"]["value"]
            .pointer(pointer)
            .unwrap_or(&Value::Null)
    }

    /// `open`, `update`, `close` or `drop`.
    pub fn event(&self) -> &str {
        self.ext("/event").as_str().unwrap_or_default()
    }

    /// A tuple of the extension as source and destination.
    pub fn tuple(&self, pointer: &str) -> Option<(SocketAddr, SocketAddr)> {
        let tuple = self.ext(pointer);
        let end = |ip: &str, port: &str| {
            let port = u16::try_from(number(&tuple[port])?).ok()?;
            Some(SocketAddr::new(tuple[ip].as_str()?.parse().ok()?, port))
        };
        Some((end("src", "sport")?, end("dst", "dport")?))
    }

    /// The far end's view of the initiator.
    pub fn remote_sees(&self) -> Option<SocketAddr> {
        let seen = self.ext("/remote_sees");
        let port = u16::try_from(number(&seen["port"])?).ok()?;
        Some(SocketAddr::new(seen["ip"].as_str()?.parse().ok()?, port))
    }

    /// Names of the hops, in path order.
    pub fn path(&self) -> Vec<&str> {
        let hops = self.ext("/hops").as_array();
        hops.into_iter()
            .flatten()
            .filter_map(|hop| hop["interface"].as_str())
            .collect()
    }

    /// A hop by its interface.
    pub fn hop(&self, interface: &str) -> Result<Hop> {
        let hops = self.ext("/hops").as_array();
        hops.into_iter()
            .flatten()
            .find(|hop| hop["interface"] == interface)
            .map(|hop| Hop(hop.clone()))
            .with_context(|| format!("no hop {interface} in {}", self.0))
    }
}

/// One hop of a record.
#[derive(Clone, Debug)]
pub struct Hop(pub Value);

impl Hop {
    /// Whether the initiator's packets are the ingress of this interface.
    pub fn is_ingress(&self) -> bool {
        self.0["direction"] == "ingress"
    }

    /// Packets and bytes of the interface's ingress and of its egress.
    pub fn both_ways(&self) -> Option<[(u64, u64); 2]> {
        self.ways(&self.0)
    }

    /// ICMP errors about the connection, in the form of [`Hop::both_ways`].
    pub fn errors(&self) -> [(u64, u64); 2] {
        self.ways(&self.0["icmp_errors"]).unwrap_or_default()
    }

    fn ways(&self, counts: &Value) -> Option<[(u64, u64); 2]> {
        let pair =
            |packets: &str, bytes: &str| Some((number(&counts[packets])?, number(&counts[bytes])?));
        let forward = pair("packets", "bytes")?;
        let reply = pair("reply_packets", "reply_bytes")?;
        Some(if self.is_ingress() {
            [forward, reply]
        } else {
            [reply, forward]
        })
    }
}

/// A count, which the JSON form of a Struct writes as a floating-point number.
pub fn number(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_f64().map(|number| number as u64))
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

/// As [`metric`], of metrics that were read before: samples of one moment.
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
    let mut sum = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').context("a sample without value")?;
        let (own, rest) = series.split_once('{').unwrap_or((series, ""));
        let wanted = labels
            .iter()
            .all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")));
        if own == name && wanted {
            *sum.get_or_insert(0.0) += value.parse::<f64>()?;
        }
    }
    Ok(sum)
}
