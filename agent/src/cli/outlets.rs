//! Every sink of the agent: where a flow goes that has its names.

use std::sync::Arc;

use crate::config::{Collector, OtlpProtocol};
use crate::flow::Flow;
use crate::sink::log::FlowLog;
use crate::sink::observer::Observer;
use crate::sink::otlp::{self, Exporter, Otlp};
use crate::sink::prometheus::{Lost, Metrics};

/// The sinks.
pub struct Outlets {
    /// The API.
    pub observer: Observer,
    /// The flow log, where there is one.
    pub log: Option<FlowLog>,
    /// The OpenTelemetry collector, where there is one.
    pub otlp: Option<Otlp>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

impl Outlets {
    /// Hands a flow to each. None is waited for.
    pub fn take(&self, flow: &Arc<Flow>) {
        self.metrics.observe([&**flow]);
        if let Some(log) = &self.log {
            log.push([Arc::clone(flow)]);
        }
        if let Some(otlp) = &self.otlp {
            otlp.push([Arc::clone(flow)]);
        }
        self.observer.push([Arc::clone(flow)]);
    }

    /// What they could not pass on, by kind.
    pub fn lost(&self) -> Vec<Lost> {
        let observer = self.observer.clone();
        let mut all: Vec<Lost> = vec![("hubble_reader", Box::new(move || observer.missed()))];
        if let Some(log) = self.log.clone() {
            all.push(("flow_log", Box::new(move || log.lost())));
        }
        if let Some(otlp) = &self.otlp {
            all.push(("otlp", Box::new(otlp.lost())));
        }
        all
    }
}

/// Starts to send to a collector, if there is to be one.
///
/// # Errors
/// When its URL cannot be used.
pub fn otlp(
    to: Option<&Collector>,
    node: &str,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(Option<Otlp>, Option<Exporter>)> {
    let Some(to) = to else {
        return Ok((None, None));
    };
    let protocol = match to.protocol {
        OtlpProtocol::Grpc => otlp::Protocol::Grpc,
        OtlpProtocol::Http => otlp::Protocol::Http,
    };
    let receiver = otlp::Receiver::new(&to.url, protocol, to.authorities.as_deref())?;
    let limits = otlp::Limits::default();
    let (otlp, exporter) = otlp::start(&receiver, node, Arc::clone(metrics), limits);
    tracing::info!(url = to.url, "sending records and metrics by OTLP");
    Ok((Some(otlp), Some(exporter)))
}
