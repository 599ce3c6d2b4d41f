//! Filters about the two ends of something, for the commands that filter here and not at the
//! agents.

use std::net::IpAddr;

use ipnet::IpNet;

/// Which ends. Values of one flag are alternatives, different flags must all fit.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub struct EndFilters {
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
}

/// The ends of something, as they are known.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// `namespace/name` of each pod; empty for an end that is none.
    pub pods: &'a [&'a str],
    /// Addresses, before and after translation.
    pub ips: &'a [&'a str],
    /// Ports, before and after translation.
    pub ports: &'a [u32],
    /// Name of the protocol.
    pub protocol: &'a str,
}

/// An address stands for the range of itself.
fn net(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse().or_else(|_| address());
    net.map_err(|_| "neither an address nor a CIDR: write 10.0.0.1 or 10.0.0.0/8".to_owned())
}

/// Whether a list of alternatives is empty, or one of them fits.
pub fn any<T>(wanted: &[T], fits: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

/// Whether `name` (`namespace/name`) begins with what is wanted; a bare name is of any
/// namespace.
pub fn is_of(name: &str, wanted: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    let bare = name.split_once('/').map_or(name, |(_, bare)| bare);
    let part = if wanted.contains('/') { name } else { bare };
    part.starts_with(wanted)
}

impl EndFilters {
    /// Whether these ends are wanted.
    pub fn pass(&self, ends: &Ends<'_>) -> bool {
        let has = |net: &IpNet| {
            let mut ips = ends.ips.iter();
            ips.any(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip)))
        };
        ends.pods.iter().any(|pod| self.names(pod))
            && any(&self.ip, has)
            && any(&self.port, |port| ends.ports.contains(&u32::from(*port)))
            && any(&self.protocol, |wanted| speaks(ends.protocol, wanted))
    }

    fn names(&self, pod: &str) -> bool {
        let namespace = pod.split_once('/').map_or("", |(namespace, _)| namespace);
        any(&self.pod, |wanted| is_of(pod, wanted))
            && any(&self.namespace, |wanted| wanted == namespace)
    }
}

/// ICMP stands for that of either IP version.
fn speaks(protocol: &str, wanted: &str) -> bool {
    let (has, wanted) = (protocol.to_lowercase(), wanted.to_lowercase());
    has == wanted || (wanted == "icmp" && has.starts_with("icmp"))
}
