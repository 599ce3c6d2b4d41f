//! `nodescope services`: what each service promises its clients, and what they got.

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::agents::{Agent, ask_all, refusal};
use super::output::Format;
use super::page::{Page, Style};
use super::servers::Servers;
use super::services_show::{compact, json, table};
use crate::sink::proto::node::services_client::ServicesClient;
use crate::sink::proto::node::{ListServicesRequest, ListServicesResponse, ServiceReport};

/// Flags of `services`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  nodescope services                  those that face outwards, and those that were used
  nodescope services -n shop --all    all services of a namespace
  nodescope services -o wide          with what each node saw last
  nodescope services -o json | jq 'select(.agrees == \"no\") | .name'")]
pub struct Args {
    /// Only services of this namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// Services without an address towards the outside too, whether they were used or not
    #[arg(long)]
    all: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    servers: Servers,
}

/// A service and what each node says of it.
#[derive(Debug)]
pub struct Joined {
    /// By name of the node.
    pub nodes: BTreeMap<String, ServiceReport>,
}

/// Shows the services; an agent that fails is told about.
///
/// # Errors
/// When all fail.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let agents = args.servers.resolve().await?;
    let mut services = join(ask_all(&agents, list).await?.given);
    services.retain(|service| args.shows(service));
    let mut page = Page::new(Style::of_stdout());
    match args.output {
        Format::Json => page.lines(services.iter().map(|one| json(one).to_string())),
        Format::Compact => page.lines(services.iter().filter_map(compact)),
        Format::Table => table(&mut page, &services, false),
        Format::Wide => table(&mut page, &services, true),
    }
    page.print()?;
    Ok(ExitCode::SUCCESS)
}

/// What an agent knows of the services.
///
/// # Errors
/// When the agent fails.
pub async fn list(agent: &Agent) -> anyhow::Result<ListServicesResponse> {
    let mut client = ServicesClient::new(agent.channel().await?);
    let answer = client.list(ListServicesRequest {}).await;
    Ok(answer
        .map_err(|status| refusal(agent, &status))?
        .into_inner())
}

impl Args {
    fn shows(&self, service: &Joined) -> bool {
        let Some(first) = service.first() else {
            return false;
        };
        let wanted = self
            .namespace
            .as_ref()
            .is_none_or(|name| *name == first.namespace);
        wanted && (self.all || !first.policy.is_empty() || service.is_used())
    }
}

/// What all nodes say, by service.
pub fn join(lists: Vec<ListServicesResponse>) -> Vec<Joined> {
    let mut services: BTreeMap<(String, String), Joined> = BTreeMap::new();
    for list in lists {
        for report in list.services {
            let key = (report.namespace.clone(), report.name.clone());
            let joined = services.entry(key).or_insert_with(|| Joined {
                nodes: BTreeMap::new(),
            });
            joined.nodes.insert(list.node.clone(), report);
        }
    }
    services.into_values().collect()
}

impl Joined {
    /// What does not differ between nodes can be read here.
    pub fn first(&self) -> Option<&ServiceReport> {
        self.nodes.values().next()
    }

    /// A count over all nodes.
    pub fn sum(&self, of: fn(&crate::sink::proto::node::ServiceTraffic) -> u64) -> u64 {
        self.nodes
            .values()
            .filter_map(|node| node.seen.as_ref())
            .map(of)
            .sum()
    }

    fn is_used(&self) -> bool {
        self.sum(|seen| seen.external_kept + seen.external_lost + seen.in_cluster) > 0
            || self.sum(|seen| seen.in_cluster_vip + seen.no_backend) > 0
    }

    /// What the client's address came to, over all nodes.
    pub fn client_ip(&self) -> &'static str {
        match (
            self.sum(|seen| seen.external_kept),
            self.sum(|seen| seen.external_lost),
        ) {
            (0, 0) => "unseen",
            (_, 0) => "kept",
            (0, _) => "lost",
            _ => "mixed",
        }
    }

    /// Whether it is what the policy promises: `no` on one node is `no`.
    pub fn agrees(&self) -> &'static str {
        let says = |word: &str| self.nodes.values().any(|node| node.agrees == word);
        match (says("no"), says("yes")) {
            (true, _) => "no",
            (false, true) => "yes",
            (false, false) => "unknown",
        }
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
