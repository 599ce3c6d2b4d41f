//! `nodescope nat`: translations in force, and the source ports that they take.

use std::process::ExitCode;
use std::time::SystemTime;

use futures::{StreamExt as _, TryStreamExt as _};

use super::agents::{Agent, ask_all, refusal};
use super::ends::{EndFilters, Ends, any, is_of};
use super::nat_rows;
use super::output::Format;
use super::page::{Page, Style};
use super::servers::Servers;
use crate::sink::json;
use crate::sink::proto::node::nat_client::NatClient;
use crate::sink::proto::node::{
    NatTuple, PortsRequest, SnatPorts, Translation, TranslationsRequest,
};

/// Flags of `nat`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  nodescope nat                       what is translated now, and whether it is to be
  nodescope nat --mismatch            only what contradicts the masquerade configuration
  nodescope nat --pod web --all       every connection of a pod, translated or not
  nodescope nat --ports -o wide       source ports in use by destination, with all pods")]
pub struct Args {
    /// Show the source ports in use, by destination and pod, instead of the translations
    #[arg(long, conflicts_with_all = ["all", "mismatch"])]
    ports: bool,
    /// Show connections too whose addresses were kept, as configured
    #[arg(long)]
    all: bool,
    /// Only what is translated, or kept, against the configuration
    #[arg(long)]
    mismatch: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    servers: Servers,
}

/// Which translations. Values of one flag are alternatives, different flags must all fit.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    #[command(flatten)]
    ends: EndFilters,
    /// The service that was asked for: [NAMESPACE/]NAME-PREFIX
    #[arg(long)]
    service: Vec<String>,
}

impl Filters {
    /// Whether a translation is wanted.
    pub fn pass(&self, one: &Translation) -> bool {
        let tuples = || [&one.original, &one.translated].into_iter().flatten();
        let ips: Vec<&str> = tuples()
            .flat_map(|NatTuple { src, dst, .. }| [src.as_str(), dst])
            .collect();
        let ports: Vec<u32> = tuples()
            .flat_map(|tuple| [tuple.sport, tuple.dport])
            .collect();
        let ends = Ends {
            pods: &[&one.source_pod, &one.destination_pod],
            ips: &ips,
            ports: &ports,
            protocol: &one.protocol,
        };
        self.ends.pass(&ends) && any(&self.service, |wanted| is_of(&one.service, wanted))
    }

    /// Whether ports in use are wanted.
    pub fn pass_ports(&self, one: &SnatPorts) -> bool {
        let pods: Vec<&str> = one.pods.iter().map(|pods| pods.pod.as_str()).collect();
        self.ends.pass(&Ends {
            pods: &pods,
            ips: &[&one.address, &one.from],
            ports: &[one.port],
            protocol: &one.protocol,
        })
    }
}

/// Shows translations or ports; an agent that fails is told about.
///
/// # Errors
/// When all agents fail.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let agents = args.servers.resolve().await?;
    let mut page = Page::new(Style::of_stdout());
    let wide = args.output == Format::Wide;
    if args.ports {
        let mut all = ask_all(&agents, ports).await?.given.concat();
        all.retain(|one| args.filters.pass_ports(one));
        match args.output {
            Format::Json => page.objects(json::SNAT_PORTS, &all)?,
            Format::Compact => page.lines(all.iter().map(nat_rows::compact_ports)),
            Format::Table | Format::Wide => nat_rows::ports(&mut page, &all, wide),
        }
    } else {
        let asked = ask_all(&agents, async |to| translations(to, args.all).await);
        let mut all = asked.await?.given.concat();
        all.retain(|one| args.filters.pass(one) && (one.mismatch || !args.mismatch));
        all.sort_by_key(|one| one.started.map(|at| (at.seconds, at.nanos)));
        match args.output {
            Format::Json => page.objects(json::TRANSLATION, &all)?,
            Format::Compact => page.lines(all.iter().map(nat_rows::compact_translation)),
            Format::Table | Format::Wide => {
                nat_rows::translations(&mut page, &all, wide, SystemTime::now());
            }
        }
    }
    page.print()?;
    Ok(ExitCode::SUCCESS)
}

/// The translations in force on an agent's node; `all`: those too that changed nothing.
///
/// # Errors
/// When the agent fails.
pub async fn translations(agent: &Agent, all: bool) -> anyhow::Result<Vec<Translation>> {
    let mut client = NatClient::new(agent.channel().await?);
    let refused = |status| refusal(agent, &status);
    let answer = client.translations(TranslationsRequest { all }).await;
    let stream = answer.map_err(refused)?.into_inner();
    stream.map(|one| one.map_err(refused)).try_collect().await
}

async fn ports(agent: &Agent) -> anyhow::Result<Vec<SnatPorts>> {
    let mut client = NatClient::new(agent.channel().await?);
    let refused = |status| refusal(agent, &status);
    let stream = client
        .ports(PortsRequest {})
        .await
        .map_err(refused)?
        .into_inner();
    stream.map(|one| one.map_err(refused)).try_collect().await
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
