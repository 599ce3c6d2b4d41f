//! Tests on one end of a flow: addresses, ports, identity, workload.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Error, Test, View, any};
use crate::sink::observer::extension;
use crate::sink::proto::flow::{Endpoint, Flow, Ip, Workload, layer4};

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The initiator.
    Source,
    /// The other.
    Destination,
}

impl End {
    /// Who the end belongs to.
    pub(super) fn endpoint(self, flow: &Flow) -> Option<&Endpoint> {
        match self {
            Self::Source => flow.source.as_ref(),
            Self::Destination => flow.destination.as_ref(),
        }
    }

    fn address(self, ip: &Ip) -> &str {
        match self {
            Self::Source => &ip.source,
            Self::Destination => &ip.destination,
        }
    }

    /// The end in the translation tuples, before and after.
    fn translations(self, view: &View<'_>) -> Vec<(IpAddr, u16)> {
        match self {
            Self::Source => extension::nat_sources(view.fields()).collect(),
            Self::Destination => extension::nat_destinations(view.fields()).collect(),
        }
    }
}

/// Address or CIDR; with `nat` also against the translation tuples.
pub(super) fn ip(
    end: End,
    field: &'static str,
    values: &[String],
    nat: bool,
) -> Result<Option<Test>, Error> {
    let networks = networks(field, values)?;
    Ok(any(networks, move |view, network| {
        let own = view.flow.ip.as_ref().map(|ip| end.address(ip));
        own.is_some_and(|address| contains(network, address))
            || (nat
                && end
                    .translations(view)
                    .iter()
                    .any(|(address, _)| network.contains(address)))
    }))
}

/// Source address after translation.
pub(super) fn ip_xlated(values: &[String]) -> Result<Option<Test>, Error> {
    let networks = networks("source_ip_xlated", values)?;
    Ok(any(networks, |view, network| {
        view.flow
            .ip
            .as_ref()
            .is_some_and(|ip| contains(network, &ip.source_xlated))
    }))
}

fn contains(network: &IpNet, address: &str) -> bool {
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| network.contains(&address))
}

fn networks(field: &'static str, values: &[String]) -> Result<Vec<IpNet>, Error> {
    let network = |value: &String| {
        value
            .parse::<IpAddr>()
            .map(IpNet::from)
            .or_else(|_| value.parse::<IpNet>())
            .map_err(|_| Error::new(field, value, "an IP address or CIDR"))
    };
    values.iter().map(network).collect()
}

/// Port, or a range `FIRST-LAST`; with `nat` also against the translation tuples.
pub(super) fn port(
    end: End,
    field: &'static str,
    values: &[String],
    nat: bool,
) -> Result<Option<Test>, Error> {
    let range = |value: &String| {
        port_range(value).ok_or_else(|| Error::new(field, value, "a port (0 to 65535)"))
    };
    let ranges = values.iter().map(range).collect::<Result<Vec<_>, _>>()?;
    Ok(any(ranges, move |view, range| {
        let Some((source, destination)) = ports(view.flow) else {
            return false;
        };
        let own = if end == End::Source {
            source
        } else {
            destination
        };
        let in_range = |port: u16| range.contains(&u32::from(port));
        range.contains(&own)
            || (nat
                && end
                    .translations(view)
                    .iter()
                    .any(|(_, port)| in_range(*port)))
    }))
}

fn port_range(value: &str) -> Option<RangeInclusive<u32>> {
    let port = |text: &str| text.parse::<u16>().ok().map(u32::from);
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

/// Source and destination port, of protocols that have them.
fn ports(flow: &Flow) -> Option<(u32, u32)> {
    use layer4::Protocol as L4;
    match flow.l4.as_ref()?.protocol.as_ref()? {
        L4::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
        L4::Udp(udp) => Some((udp.source_port, udp.destination_port)),
        L4::Sctp(sctp) => Some((sctp.source_port, sctp.destination_port)),
        L4::IcmPv4(_) | L4::IcmPv6(_) => None,
    }
}

/// Identity number.
pub(super) fn identity(end: End, values: Vec<u32>) -> Option<Test> {
    any(values, move |view, value| {
        end.endpoint(view.flow)
            .is_some_and(|endpoint| endpoint.identity == *value)
    })
}

/// Workload; an empty name or kind stands for any.
pub(super) fn workload(end: End, values: Vec<Workload>) -> Option<Test> {
    any(values, move |view, wanted| {
        end.endpoint(view.flow).is_some_and(|endpoint| {
            endpoint.workloads.iter().any(|found| {
                (wanted.name.is_empty() || wanted.name == found.name)
                    && (wanted.kind.is_empty() || wanted.kind == found.kind)
            })
        })
    })
}
