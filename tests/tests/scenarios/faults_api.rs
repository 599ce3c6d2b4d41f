//! The API server out of reach: the agent counts exactly, names by what it knew, disturbs nothing,
//! and knows the cluster again when the server is back. What each answer of a server that is there
//! makes of it, `cluster_faults` among the agent's own tests has.

use anyhow::{Context, Result, ensure};
use nodescope_tests::apiserver::{ApiServer, kinds};
use nodescope_tests::lab::{Agent, Lab, Proc, recovers};
use rustix::process::Signal;
use serde_json::json;

use crate::common::{PATIENCE, Record, agent, eventually, get, lab, metric, number, one, records};
use crate::identity::Since;
use crate::restart::transmitted;

/// Echoes that go on through a fault, from the pod `web` to another pod.
pub struct Echoes {
    ping: Proc,
    to: String,
}

impl Echoes {
    pub fn begin(lab: &Lab, to: &str) -> Result<Self> {
        let (web, to) = (lab.pod("web")?, lab.pod(to)?.ip().to_string());
        let ping = lab.spawn(&web.netns(), ["ping", "-q", "-i", "0.02", &to])?;
        Ok(Self { ping, to })
    }

    /// Ends them: each was answered. How many there were.
    pub fn end(mut self) -> Result<[u64; 2]> {
        self.ping.end_with(Signal::INT, PATIENCE)?;
        let [sent, answered] = transmitted(&self.ping.stdout())?;
        // The last may be on its way when ping is told to end.
        ensure!(
            sent > 0 && answered + 1 >= sent,
            "{answered} of {sent} echoes to {}",
            self.to
        );
        Ok([sent, answered])
    }
}

/// Waits until an agent has told of just so many echoes.
pub fn told(agent: &Agent, echoes: [u64; 2]) -> Result<()> {
    eventually(&format!("{echoes:?} echoes are told"), || {
        let all = records(agent)?;
        let is_echo = |record: &&Record| record.flow("/l4/ICMPv4").is_object();
        let last = all.iter().rev().find(is_echo).context("no echo")?;
        let count = |way: &str| number(last.ext(&format!("/{way}/packets_total")));
        let found = [count("forward"), count("reply")].map(Option::unwrap_or_default);
        ensure!(found == echoes, "{found:?}");
        Ok(true)
    })
}

/// A new connection is told, to its end, under the names of its ends.
pub fn is_named(lab: &Lab, agent: &Agent) -> Result<()> {
    let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
    let seen = get(&web.netns(), &format!("http://{}:8080/", web2.ip()))?;
    let local = seen["local"].as_str().context("no local")?.to_owned();
    let record = one(agent, "the connection", |record| {
        let tuple = record.tuple("/nat/original");
        record.event() == "close" && tuple.is_some_and(|(source, _)| source.to_string() == local)
    })?;
    assert_eq!(record.flow("/source/pod_name"), &json!(web.name()));
    assert_eq!(record.flow("/destination/pod_name"), &json!(web2.name()));
    Ok(())
}

pub fn pods(agent: &Agent) -> Result<f64> {
    let pods = metric(agent, "nodescope_kube_objects", &[("kind", "pods")])?;
    pods.context("no such metric")
}

/// Waits until an agent knows all the pods that there are, those of other nodes as well; how many.
pub fn all_known(agent: &Agent, api: &ApiServer) -> Result<f64> {
    let kind = kinds::by_name("pods").context("no pods")?;
    let there = api.store().snapshot(kind, None);
    let Ok((_, there)) = there else {
        anyhow::bail!("no pods");
    };
    let there = there.len() as f64;
    eventually("all pods are known", || Ok(pods(agent)? == there))?;
    Ok(there)
}

fn failures(agent: &Agent) -> Result<f64> {
    let errors = metric(agent, "nodescope_kube_watch_errors_total", &[])?;
    errors.context("no such metric")
}

/// Tells the API server of another pod, which no agent knows while it hears nothing.
fn add(api: &ApiServer, name: &str) -> Result<()> {
    api.store().apply(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running"}
    }))?;
    Ok(())
}

/// Loses every packet of the agent's connections to the API server, or none.
fn cut(lab: &Lab, cut: bool) -> Result<()> {
    let how = if cut { "-I" } else { "-D" };
    for port in ["--sport", "--dport"] {
        let rule = ["iptables", "-w", how, "INPUT", "-i", "lo", "-p", "tcp"];
        let rule = [&rule[..], &[port, "6443", "-j", "DROP"]].concat();
        lab.node(0).tool(&rule, "")?;
    }
    Ok(())
}

#[test]
fn scenario_34_an_api_server_out_of_reach_costs_news_and_nothing_else() -> Result<()> {
    let Some(lab) = lab("faultapi")? else {
        return Ok(());
    };
    let Some(api) = lab.api() else {
        println!("skipped: a real API server cannot be told to fail");
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let since = Since::still(&lab, &agent)?;
    let echoes = Echoes::begin(&lab, "api")?;
    let before = all_known(&agent, api)?;
    assert_eq!(failures(&agent)?, 0.0);

    // A partition that is over before anybody takes the connections for dead.
    cut(&lab, true)?;
    add(api, "during-a-partition")?;
    is_named(&lab, &agent)?;
    assert_eq!(pods(&agent)?, before);
    cut(&lab, false)?;
    recovers("the API server is cut off for a moment", || {
        Ok(pods(&agent)? == before + 1.0)
    })?;
    assert_eq!(failures(&agent)?, 0.0, "{}", agent.log());

    // Killed, and back without the history of what happened meanwhile: 410.
    api.refuse_connections(true)?;
    eventually("the failure is counted", || Ok(failures(&agent)? > 0.0))?;
    add(api, "while-it-was-away")?;
    api.compact();
    is_named(&lab, &agent)?;
    assert_eq!(pods(&agent)?, before + 1.0);
    let log = agent.log();
    ensure!(log.contains("names stay as last known"), "{log}");
    api.refuse_connections(false)?;
    recovers("the API server is killed", || {
        Ok(pods(&agent)? == before + 2.0)
    })?;
    eventually("it is said", || {
        Ok(agent.log().contains("the API answers again"))
    })?;
    is_named(&lab, &agent)?;

    let echoes = echoes.end()?;
    since.agree(&lab, &agent)?;
    told(&agent, echoes)
}
