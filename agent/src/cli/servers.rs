//! Which agents to ask: those that are named, the one of this machine, or those of a cluster.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;

use super::agents::{Agent, ask_each, refusal};
use super::failure::tell;
use super::tls::Tls;
use crate::cluster::{self, AGENT_LABEL};
use crate::sink::observer::filter::glob;
use crate::sink::proto::observer::GetNodesRequest;
use crate::sink::proto::observer::observer_client::ObserverClient;

/// Where the agent of this node listens unless told otherwise.
pub const LOCAL_SOCKET: &str = "/run/nodescope/agent.sock";

/// Addresses of agents, where no flag says any.
const ENV_SERVER: &str = "NODESCOPE_SERVER";

/// Which agents to ask.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Agents")]
pub struct Servers {
    /// Agent to ask: unix:///PATH or HOST:PORT; may be given several times [env: NODESCOPE_SERVER]
    /// [default: this machine's agent, else those of the cluster of the kubeconfig]
    #[arg(
        long = "server",
        value_delimiter = ',',
        value_name = "ADDR",
        conflicts_with_all = ["kubeconfig", "context"]
    )]
    pub addresses: Vec<String>,
    /// Ask all agents of the cluster of this kubeconfig, by a port-forward to each
    /// [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The same, with this context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Only what this node (a glob) sees; may be given several times
    #[arg(long = "node", value_delimiter = ',', value_name = "NAME")]
    pub nodes: Vec<String>,
    #[command(flatten)]
    pub tls: Tls,
}

impl Servers {
    /// The agents to ask. A node that is asked for and has no agent is told about.
    ///
    /// # Errors
    /// When there is none, or the cluster does not tell.
    pub async fn resolve(&self) -> anyhow::Result<Vec<Agent>> {
        let found = self.everywhere().await?;
        if self.nodes.is_empty() {
            return Ok(found);
        }
        narrow(found, &self.nodes).await
    }

    /// As [`Servers::resolve`], of whatever node: for who joins what several nodes saw.
    ///
    /// # Errors
    /// When there is none, or the cluster does not tell.
    pub async fn everywhere(&self) -> anyhow::Result<Vec<Agent>> {
        let tls = self.tls.config()?;
        let over = |agent: Agent| agent.over(tls.clone());
        let by_cluster = self.kubeconfig.is_some() || self.context.is_some();
        let mut addresses = self.addresses.clone();
        if addresses.is_empty() && !by_cluster {
            let named = std::env::var(ENV_SERVER).unwrap_or_default();
            let named = named.split(',').filter(|address| !address.is_empty());
            addresses.extend(named.map(str::to_owned));
        }
        if !addresses.is_empty() {
            return Ok(addresses.into_iter().map(Agent::at).map(over).collect());
        }
        if !by_cluster && Path::new(LOCAL_SOCKET).exists() {
            return Ok(vec![Agent::at(format!("unix://{LOCAL_SOCKET}"))]);
        }
        let usual = || cluster::usual_kubeconfig();
        let Some(kubeconfig) = self.kubeconfig.clone().or_else(usual) else {
            bail!(
                "no agent on this machine ({LOCAL_SOCKET} is not there) and no kubeconfig \
                 ($KUBECONFIG, ~/.kube/config): start `nodescope agent`, point at one with \
                 --server unix:///PATH or --server HOST:PORT, or at a cluster with --kubeconfig"
            );
        };
        let pods = cluster::agents(&kubeconfig, self.context.as_deref()).await?;
        if pods.is_empty() {
            bail!(
                "no agent in the cluster of kubeconfig {}: no pod is labelled {AGENT_LABEL}: \
                 install nodescope there, choose another --context, or give a --server",
                kubeconfig.display()
            );
        }
        Ok(pods.into_iter().map(Agent::behind).map(over).collect())
    }
}

/// The agents of the nodes that are asked for. Those of which only the address is known are asked
/// for their node's name; one that does not answer that is told about.
async fn narrow(found: Vec<Agent>, wanted: &[String]) -> anyhow::Result<Vec<Agent>> {
    let names = ask_each(&found, names).await;
    let mut there = Vec::new();
    let mut kept = Vec::new();
    for (agent, names) in found.into_iter().zip(names) {
        match names {
            Ok(names) => {
                if names.iter().any(|name| fits(wanted, name)) {
                    kept.push(agent);
                }
                there.extend(names);
            }
            Err(error) => tell(&error),
        }
    }
    let has = |pattern: &&String| there.iter().any(|name| glob(pattern, name));
    let missing: Vec<&String> = wanted.iter().filter(|pattern| !has(pattern)).collect();
    if kept.is_empty() {
        let wanted = wanted.join(", ");
        match there.is_empty() {
            true => bail!("--node {wanted}: no agent said of which node it is"),
            false => bail!(
                "--node {wanted}: no agent of such a node; there are {}",
                there.join(", ")
            ),
        }
    }
    for pattern in missing {
        tell(&format_args!(
            "--node {pattern}: no agent of such a node; there are {}",
            there.join(", ")
        ));
    }
    Ok(kept)
}

fn fits(wanted: &[String], name: &str) -> bool {
    wanted.iter().any(|pattern| glob(pattern, name))
}

/// The nodes behind an agent: one, or those that a relay knows.
async fn names(agent: &Agent) -> anyhow::Result<Vec<String>> {
    if let Some(node) = agent.node() {
        return Ok(vec![node.to_owned()]);
    }
    let mut client = ObserverClient::new(agent.channel().await?);
    let answer = client.get_nodes(GetNodesRequest {}).await;
    let nodes = answer.map_err(|status| refusal(agent, &status))?;
    let nodes = nodes.into_inner().nodes.into_iter();
    Ok(nodes.map(|node| node.name).collect())
}
