//! `nodescope nat`: translations in force, and the source ports that they take.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::ValueEnum;
use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;

use super::agents::{Agent, ask_all, refusal};
use super::nat_rows::{self, Page};
use super::output::colour;
use super::servers::Servers;
use crate::sink::json;
use crate::sink::proto::node::nat_client::NatClient;
use crate::sink::proto::node::{
    NatTuple, PortsRequest, SnatPorts, Translation, TranslationsRequest,
};

/// Flags of `nat`.
#[derive(clap::Args, Debug)]
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
    #[command(flatten)]
    filters: Filters,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    servers: Servers,
}

/// Which translations. Values of one flag are alternatives, different flags must all fit.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    /// Either end is this pod: [NAMESPACE/]NAME-PREFIX, or NAMESPACE/ for all
    #[arg(long)]
    pub pod: Vec<String>,
    /// Either end is in this namespace
    #[arg(long, short)]
    pub namespace: Vec<String>,
    /// Either end has this address (or CIDR), before or after translation
    #[arg(long, value_parser = net)]
    pub ip: Vec<IpNet>,
    /// Either end has this port, before or after translation
    #[arg(long)]
    pub port: Vec<u16>,
    /// Protocol: tcp, udp, icmp, sctp
    #[arg(long)]
    pub protocol: Vec<String>,
    /// The service that was asked for: [NAMESPACE/]NAME-PREFIX
    #[arg(long)]
    pub service: Vec<String>,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// One JSON object a line
    Json,
}

/// An address stands for the range of itself.
pub(super) fn net(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse().or_else(|_| address());
    net.map_err(|_| "neither an address nor a CIDR: write 10.0.0.1 or 10.0.0.0/8".to_owned())
}

impl Filters {
    fn names(&self, pod: &str) -> bool {
        let namespace = pod.split_once('/').map_or("", |(namespace, _)| namespace);
        let by_name = self.pod.is_empty() || self.pod.iter().any(|wanted| is_of(pod, wanted));
        let by_namespace =
            self.namespace.is_empty() || self.namespace.iter().any(|wanted| wanted == namespace);
        by_name && by_namespace
    }

    fn protocol_fits(&self, protocol: &str) -> bool {
        let fits = |wanted: &String| {
            let (has, wanted) = (protocol.to_lowercase(), wanted.to_lowercase());
            has == wanted || (wanted == "icmp" && has.starts_with("icmp"))
        };
        self.protocol.is_empty() || self.protocol.iter().any(fits)
    }

    /// Whether a translation is wanted.
    pub fn pass(&self, one: &Translation) -> bool {
        let tuples = || [&one.original, &one.translated].into_iter().flatten();
        let ips = || tuples().flat_map(|NatTuple { src, dst, .. }| [src, dst]);
        let ip_fits =
            |net: &IpNet| ips().any(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip)));
        let port_fits = |port: &u16| {
            tuples().any(|tuple| [tuple.sport, tuple.dport].contains(&u32::from(*port)))
        };
        let service_fits = |wanted: &String| is_of(&one.service, wanted);
        (self.names(&one.source_pod) || self.names(&one.destination_pod))
            && (self.ip.is_empty() || self.ip.iter().any(ip_fits))
            && (self.port.is_empty() || self.port.iter().any(port_fits))
            && (self.service.is_empty() || self.service.iter().any(service_fits))
            && self.protocol_fits(&one.protocol)
    }

    /// Whether ports in use are wanted.
    pub fn pass_ports(&self, one: &SnatPorts) -> bool {
        let has = |ip: &str, net: &IpNet| ip.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip));
        let ip_fits = |net: &IpNet| has(&one.address, net) || has(&one.from, net);
        let port_fits = |port: &u16| u32::from(*port) == one.port;
        one.pods.iter().any(|pods| self.names(&pods.pod))
            && (self.ip.is_empty() || self.ip.iter().any(ip_fits))
            && (self.port.is_empty() || self.port.iter().any(port_fits))
            && self.protocol_fits(&one.protocol)
    }
}

/// Whether `name` (`namespace/name`) begins with what is wanted; a bare name is of any
/// namespace.
pub(super) fn is_of(name: &str, wanted: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    let bare = name.split_once('/').map_or(name, |(_, bare)| bare);
    let part = if wanted.contains('/') { name } else { bare };
    part.starts_with(wanted)
}

/// Shows translations or ports; an agent that fails is told about.
///
/// # Errors
/// When all agents fail.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let agents = args.servers.resolve().await?;
    let mut page = Page::new(args.output == Format::Wide, colour());
    if args.ports {
        let mut all = ask_all(&agents, ports).await?.given.concat();
        all.retain(|one| args.filters.pass_ports(one));
        if args.output == Format::Json {
            return json(json::SNAT_PORTS, &all);
        }
        nat_rows::ports(&mut page, &all);
    } else {
        let asked = ask_all(&agents, async |to| translations(to, args.all).await);
        let mut all = asked.await?.given.concat();
        all.retain(|one| args.filters.pass(one) && (one.mismatch || !args.mismatch));
        all.sort_by_key(|one| one.started.map(|at| (at.seconds, at.nanos)));
        if args.output == Format::Json {
            return json(json::TRANSLATION, &all);
        }
        nat_rows::translations(&mut page, &all, SystemTime::now());
    }
    page.print()?;
    Ok(ExitCode::SUCCESS)
}

async fn translations(agent: &Agent, all: bool) -> anyhow::Result<Vec<Translation>> {
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

pub(super) fn json(name: &str, messages: &[impl prost::Message]) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for message in messages {
        let mut text = Vec::new();
        json::write_whole(name, message, &mut text)?;
        text.push(b'\n');
        out.write_all(&text)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
