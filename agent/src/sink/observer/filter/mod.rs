//! Which flows a request lets pass.
//!
//! Fields within one filter are ANDed, values of a field ORed. A flow passes when any filter of
//! the whitelist matches (or there is none) and none of the blacklist does.

mod ends;
mod extra;
mod layer7;
mod names;
mod selector;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;

use super::structs::{self, Fields};
use crate::sink::proto::flow::{Flow, FlowFilter, IpVersion, TcpFlags, Verdict, layer4};
use crate::sink::proto::observer::GetFlowsRequest;

pub use extra::Extra;
pub use names::glob;

/// A filter that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: `{value}` is not {wanted}")]
pub struct Error {
    /// The field of the filter.
    pub field: &'static str,
    /// What it said.
    pub value: String,
    /// What it may say.
    pub wanted: &'static str,
}

impl Error {
    fn new(field: &'static str, value: &str, wanted: &'static str) -> Self {
        Self {
            field,
            value: value.to_owned(),
            wanted,
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// A flow, and its extensions once some test has asked for them.
struct View<'a> {
    flow: &'a Flow,
    fields: OnceCell<Fields>,
}

impl<'a> View<'a> {
    fn new(flow: &'a Flow) -> Self {
        Self {
            flow,
            fields: OnceCell::new(),
        }
    }

    fn fields(&self) -> &Fields {
        self.fields.get_or_init(|| {
            self.flow
                .extensions
                .as_ref()
                .and_then(structs::unpack)
                .unwrap_or_default()
        })
    }
}

type Test = Box<dyn Fn(&View<'_>) -> bool + Send + Sync>;

/// The filters of a request, ready to use.
#[derive(Default)]
pub struct Filters {
    allow: Vec<Vec<Test>>,
    deny: Vec<Vec<Test>>,
    extra: Vec<Test>,
}

impl Filters {
    /// Reads the filters of a request.
    ///
    /// # Errors
    /// When a value is not of the form that its field wants.
    pub fn compile(request: &GetFlowsRequest) -> Result<Self, Error> {
        let extra = Extra::of(request)?;
        let compile = |filters: &[FlowFilter]| -> Result<Vec<_>, Error> {
            filters
                .iter()
                .map(|filter| compile(filter, &extra))
                .collect()
        };
        let (allow, deny) = (compile(&request.whitelist)?, compile(&request.blacklist)?);
        Ok(Self {
            allow,
            deny,
            extra: extra.tests(),
        })
    }

    /// Whether a flow passes.
    pub fn pass(&self, flow: &Flow) -> bool {
        let view = View::new(flow);
        let all = |tests: &Vec<Test>| tests.iter().all(|test| test(&view));
        (self.allow.is_empty() || self.allow.iter().any(all))
            && !self.deny.iter().any(all)
            && all(&self.extra)
    }
}

/// One filter as the tests that must all hold. Every field is named, so that a new one cannot
/// be forgotten here.
fn compile(filter: &FlowFilter, extra: &Extra) -> Result<Vec<Test>, Error> {
    let FlowFilter {
        source_ip,
        source_pod,
        destination_ip,
        destination_pod,
        verdict,
        event_type,
        source_fqdn,
        destination_fqdn,
        http_status_code,
        source_label,
        destination_label,
        protocol,
        source_port,
        destination_port,
        reply,
        source_service,
        destination_service,
        dns_query,
        source_identity,
        destination_identity,
        http_method,
        http_path,
        tcp_flags,
        node_name,
        ip_version,
        source_workload,
        destination_workload,
        uuid,
        traffic_direction,
        http_url,
        drop_reason_desc,
        source_ip_xlated,
        interface,
    } = filter.clone();
    let nat = extra.nat_tuples;
    let (from, to) = (ends::End::Source, ends::End::Destination);
    let mut tests = Tests::default();

    tests.add(ends::ip(from, "source_ip", &source_ip, nat)?);
    tests.add(ends::ip(to, "destination_ip", &destination_ip, nat)?);
    tests.add(ends::ip_xlated(&source_ip_xlated)?);
    tests.add(ends::port(from, "source_port", &source_port, nat)?);
    tests.add(ends::port(to, "destination_port", &destination_port, nat)?);
    tests.add(names::pod(from, "source_pod", &source_pod)?);
    tests.add(names::pod(to, "destination_pod", &destination_pod)?);
    tests.add(names::service(from, "source_service", &source_service)?);
    tests.add(names::service(
        to,
        "destination_service",
        &destination_service,
    )?);
    tests.add(names::fqdn(from, "source_fqdn", &source_fqdn)?);
    tests.add(names::fqdn(to, "destination_fqdn", &destination_fqdn)?);
    tests.add(names::node(&node_name)?);
    tests.add(selector::labels(from, "source_label", &source_label)?);
    tests.add(selector::labels(
        to,
        "destination_label",
        &destination_label,
    )?);
    tests.add(ends::workload(from, source_workload));
    tests.add(ends::workload(to, destination_workload));
    tests.add(ends::identity(from, source_identity));
    tests.add(ends::identity(to, destination_identity));
    tests.add(layer7::protocol(&protocol)?);
    tests.add(layer7::status(&http_status_code)?);
    tests.add(layer7::method(http_method));
    tests.add(layer7::path(&http_path)?);
    tests.add(layer7::url(&http_url)?);
    tests.add(layer7::dns_query(&dns_query)?);

    tests.any(verdict, |flow, verdict| flow.verdict == *verdict);
    tests.any(traffic_direction, |flow, direction| {
        flow.traffic_direction == *direction
    });
    tests.any(drop_reason_desc, |flow, reason| {
        flow.verdict() == Verdict::Dropped && flow.drop_reason_desc == *reason
    });
    tests.any(uuid, |flow, uuid| flow.uuid == *uuid);
    tests.any(ip_version, |flow, version| {
        let found = flow
            .ip
            .as_ref()
            .map_or(IpVersion::IpNotUsed.into(), |ip| ip.ip_version);
        found == *version
    });
    tests.any(event_type, |flow, wanted| {
        flow.event_type.as_ref().is_some_and(|found| {
            found.r#type == wanted.r#type
                && (!wanted.match_sub_type || found.sub_type == wanted.sub_type)
        })
    });
    // An answer that is not known to be one matches neither, except that a drop is not one.
    tests.any(reply, |flow, wanted| match flow.is_reply {
        Some(is_reply) => is_reply == *wanted,
        None => flow.verdict() == Verdict::Dropped && !*wanted,
    });
    tests.any(tcp_flags, |flow, wanted| {
        tcp(flow).is_some_and(|found| includes(found, wanted))
    });
    tests.any(interface, |flow, wanted| {
        flow.interface.as_ref().is_some_and(|found| {
            (wanted.index == 0 || wanted.index == found.index)
                && (wanted.name.is_empty() || wanted.name == found.name)
        })
    });
    Ok(tests.0)
}

#[derive(Default)]
struct Tests(Vec<Test>);

impl Tests {
    fn add(&mut self, test: Option<Test>) {
        self.0.extend(test);
    }

    /// A test that one of `values` fits, unless there are none.
    fn any<T: Send + Sync + 'static>(
        &mut self,
        values: Vec<T>,
        fits: impl Fn(&Flow, &T) -> bool + Send + Sync + 'static,
    ) {
        self.add(any(values, move |view, value| fits(view.flow, value)));
    }
}

/// A test that one of `values` fits; no test when there are none.
fn any<T: Send + Sync + 'static>(
    values: Vec<T>,
    fits: impl Fn(&View<'_>, &T) -> bool + Send + Sync + 'static,
) -> Option<Test> {
    if values.is_empty() {
        return None;
    }
    Some(Box::new(move |view| {
        values.iter().any(|value| fits(view, value))
    }))
}

fn tcp(flow: &Flow) -> Option<&TcpFlags> {
    match flow.l4.as_ref()?.protocol.as_ref()? {
        layer4::Protocol::Tcp(tcp) => tcp.flags.as_ref(),
        _ => None,
    }
}

/// Whether all flags of `wanted` are set.
fn includes(found: &TcpFlags, wanted: &TcpFlags) -> bool {
    let bits = |flags: &TcpFlags| {
        let TcpFlags {
            fin,
            syn,
            rst,
            psh,
            ack,
            urg,
            ece,
            cwr,
            ns,
        } = *flags;
        [fin, syn, rst, psh, ack, urg, ece, cwr, ns]
    };
    bits(wanted)
        .into_iter()
        .zip(bits(found))
        .all(|(wanted, found)| found || !wanted)
}
