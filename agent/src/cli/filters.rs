//! The filters of `observe`, as a request to the server.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};

use crate::sink::names;
use crate::sink::observer::filter::Extra;
use crate::sink::proto::flow::{FlowFilter, Verdict};
use crate::sink::proto::observer::GetFlowsRequest;

/// Which flows. Values of one flag are alternatives, different flags must all fit.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters")]
pub struct FlowFilters {
    /// Either end is this pod: [NAMESPACE/]NAME-PREFIX, or NAMESPACE/ for all
    #[arg(long, conflicts_with_all = ["from_pod", "to_pod"])]
    pub pod: Vec<String>,
    /// Either end is in this namespace; with names without one, the namespace of those
    #[arg(long, short, conflicts_with_all = ["from_namespace", "to_namespace"])]
    pub namespace: Vec<String>,
    /// Either end has this address (or CIDR), before or after translation
    #[arg(long, conflicts_with_all = ["from_ip", "to_ip"])]
    pub ip: Vec<String>,
    /// Either end has this label: a Kubernetes selector, for example app=web
    #[arg(long, short, conflicts_with_all = ["from_label", "to_label"])]
    pub label: Vec<String>,
    /// Either end has this port (or FIRST-LAST), before or after translation
    #[arg(long, conflicts_with_all = ["from_port", "to_port"])]
    pub port: Vec<String>,
    /// The flow is to or from this service: [NAMESPACE/]NAME-PREFIX
    #[arg(long, conflicts_with_all = ["from_service", "to_service"])]
    pub service: Vec<String>,
    /// The initiator is this pod
    #[arg(long)]
    pub from_pod: Vec<String>,
    /// The initiator is in this namespace
    #[arg(long)]
    pub from_namespace: Vec<String>,
    /// The initiator has this address
    #[arg(long)]
    pub from_ip: Vec<String>,
    /// The initiator has this label
    #[arg(long)]
    pub from_label: Vec<String>,
    /// The initiator has this port
    #[arg(long)]
    pub from_port: Vec<String>,
    /// The initiator is this service
    #[arg(long)]
    pub from_service: Vec<String>,
    /// The destination is this pod
    #[arg(long)]
    pub to_pod: Vec<String>,
    /// The destination is in this namespace
    #[arg(long)]
    pub to_namespace: Vec<String>,
    /// The destination has this address
    #[arg(long)]
    pub to_ip: Vec<String>,
    /// The destination has this label
    #[arg(long)]
    pub to_label: Vec<String>,
    /// The destination has this port
    #[arg(long)]
    pub to_port: Vec<String>,
    /// The destination is this service
    #[arg(long)]
    pub to_service: Vec<String>,
    /// Protocol: tcp, udp, icmp, icmpv4, icmpv6, sctp, dns, http
    #[arg(long)]
    pub protocol: Vec<String>,
    /// What became of the traffic
    #[arg(long, ignore_case = true, value_parser = verdicts())]
    pub verdict: Vec<String>,
    /// Seen by these nodes (globs); a flag of whoever asks several agents, see [`Self::of_nodes`]
    #[arg(skip)]
    pub node: Vec<String>,
    /// Kind of ends
    #[arg(long, value_parser = PossibleValuesParser::new(names::CLASSES.map(|(_, word)| word)))]
    pub class: Vec<String>,
    /// Only flows whose initiator was translated (--snat=false: was not)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub snat: Option<bool>,
}

fn verdicts() -> impl clap::builder::TypedValueParser<Value = String> {
    PossibleValuesParser::new([
        "forwarded",
        "dropped",
        "error",
        "audit",
        "redirected",
        "traced",
    ])
    .map(|word| word.to_ascii_uppercase())
}

impl FlowFilters {
    /// The same, of what these nodes (globs; none: all) saw.
    pub fn of_nodes(&self, nodes: &[String]) -> Self {
        Self {
            node: nodes.to_vec(),
            ..self.clone()
        }
    }

    /// Fills in the filters of a request.
    pub fn apply(&self, request: &mut GetFlowsRequest) {
        let whitelist = self.whitelist();
        request.whitelist = if whitelist == [FlowFilter::default()] {
            Vec::new()
        } else {
            whitelist
        };
        let extra = Extra {
            classes: self.class.clone(),
            snat: self.snat,
            // People ask by the address they know, be it before or after translation.
            nat_tuples: self.names_addresses(),
        };
        request.extensions = extra.pack();
    }

    fn names_addresses(&self) -> bool {
        [
            &self.ip,
            &self.from_ip,
            &self.to_ip,
            &self.port,
            &self.from_port,
            &self.to_port,
        ]
        .iter()
        .any(|values| !values.is_empty())
    }

    /// One filter for each way in which the flags about either end can fit. Who an end is (pod,
    /// namespace, address, label) belongs together; port and service may fit the other end:
    /// `--pod client --port 80` is about the client's requests as well.
    fn whitelist(&self) -> Vec<FlowFilter> {
        let one_sided = !self.from_pod.is_empty() || !self.to_pod.is_empty();
        let pods = if one_sided {
            Vec::new()
        } else {
            pods(&self.pod, &self.namespace)
        };
        let mut filters = vec![self.both_ends()];
        let who = [&pods, &self.ip, &self.label]
            .iter()
            .any(|values| !values.is_empty());
        if who {
            filters = either(
                filters,
                |filter| {
                    filter.source_pod.extend_from_slice(&pods);
                    filter.source_ip.extend_from_slice(&self.ip);
                    filter.source_label.extend_from_slice(&self.label);
                },
                |filter| {
                    filter.destination_pod.extend_from_slice(&pods);
                    filter.destination_ip.extend_from_slice(&self.ip);
                    filter.destination_label.extend_from_slice(&self.label);
                },
            );
        }
        if !self.port.is_empty() {
            filters = either(
                filters,
                |filter| filter.source_port.extend_from_slice(&self.port),
                |filter| filter.destination_port.extend_from_slice(&self.port),
            );
        }
        if !self.service.is_empty() {
            let services = qualified(&self.service, &self.namespace);
            filters = either(
                filters,
                |filter| filter.source_service.extend_from_slice(&services),
                |filter| filter.destination_service.extend_from_slice(&services),
            );
        }
        filters
    }

    /// The namespaces for the names of one end: its own, else those for either.
    fn side<'a>(&'a self, names: &[String], own: &'a [String]) -> &'a [String] {
        if own.is_empty() && !names.is_empty() {
            &self.namespace
        } else {
            own
        }
    }

    /// What holds whichever end the other flags fit.
    fn both_ends(&self) -> FlowFilter {
        let verdict = |word: &String| Verdict::from_str_name(word).map(i32::from);
        FlowFilter {
            source_pod: pods(
                &self.from_pod,
                self.side(&self.from_pod, &self.from_namespace),
            ),
            destination_pod: pods(&self.to_pod, self.side(&self.to_pod, &self.to_namespace)),
            source_ip: self.from_ip.clone(),
            destination_ip: self.to_ip.clone(),
            source_label: self.from_label.clone(),
            destination_label: self.to_label.clone(),
            source_port: self.from_port.clone(),
            destination_port: self.to_port.clone(),
            source_service: qualified(
                &self.from_service,
                self.side(&self.from_service, &self.from_namespace),
            ),
            destination_service: qualified(
                &self.to_service,
                self.side(&self.to_service, &self.to_namespace),
            ),
            protocol: self.protocol.clone(),
            verdict: self.verdict.iter().filter_map(verdict).collect(),
            node_name: self.node.clone(),
            ..FlowFilter::default()
        }
    }
}

/// Each filter twice: with a condition on the source, and on the destination.
fn either(
    filters: Vec<FlowFilter>,
    source: impl Fn(&mut FlowFilter),
    destination: impl Fn(&mut FlowFilter),
) -> Vec<FlowFilter> {
    let mut doubled = Vec::with_capacity(filters.len() * 2);
    for filter in filters {
        let mut left = filter.clone();
        source(&mut left);
        let mut right = filter;
        destination(&mut right);
        doubled.extend([left, right]);
    }
    doubled
}

/// Pod names with the namespaces; namespaces alone stand for all their pods.
fn pods(names: &[String], namespaces: &[String]) -> Vec<String> {
    if names.is_empty() {
        return namespaces
            .iter()
            .map(|namespace| format!("{namespace}/"))
            .collect();
    }
    qualified(names, namespaces)
}

/// Bare names in each of the namespaces.
fn qualified(names: &[String], namespaces: &[String]) -> Vec<String> {
    let within = |name: &String| -> Vec<String> {
        if name.contains('/') || namespaces.is_empty() {
            return vec![name.clone()];
        }
        namespaces
            .iter()
            .map(|namespace| format!("{namespace}/{name}"))
            .collect()
    };
    names.iter().flat_map(within).collect()
}

#[cfg(test)]
#[path = "filters_tests.rs"]
mod tests;
