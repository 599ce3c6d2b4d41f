//! The agent's metrics as OTLP has them: the names, labels and values of `/metrics`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use prometheus::proto::{self, MetricFamily, MetricType};
use tokio::time::MissedTickBehavior;

use super::attributes::text;
use super::send::Sender;
use super::{Origin, SCHEMA, nanos};
use crate::sink::prometheus::Metrics;

/// Sends all metrics, again and again. One that is not taken is not tried again: the next has the
/// same counters, further on.
pub(super) async fn feed(
    sender: Sender,
    origin: Origin,
    metrics: Arc<Metrics>,
    interval: Duration,
) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (from, of) = (origin.clone(), Arc::clone(&metrics));
        // Thousands of series take a while.
        let gathered = tokio::task::spawn_blocking(move || request(&from, &of.families())).await;
        let Ok(request) = gathered else {
            continue;
        };
        if let Err(failure) = sender.metrics(request).await {
            tracing::debug!(reason = failure.reason, "OTLP: metrics not taken");
        }
    }
}

/// A request with these families.
pub(super) fn request(origin: &Origin, families: &[MetricFamily]) -> ExportMetricsServiceRequest {
    let now = nanos(SystemTime::now());
    let metrics = families.iter().filter_map(|family| {
        let data = data(family, origin.started, now)?;
        Some(Metric {
            name: family.name().to_owned(),
            description: family.help().to_owned(),
            unit: unit(family.name()).to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    });
    let scope_metrics = ScopeMetrics {
        scope: Some(origin.scope.clone()),
        metrics: metrics.collect(),
        schema_url: SCHEMA.to_owned(),
    };
    let resource_metrics = ResourceMetrics {
        resource: Some(origin.resource.clone()),
        scope_metrics: vec![scope_metrics],
        schema_url: SCHEMA.to_owned(),
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![resource_metrics],
    }
}

/// The unit that a name ends with, as UCUM writes it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("packets") => "{packet}",
        _ => "",
    }
}

fn data(family: &MetricFamily, started: u64, now: u64) -> Option<Data> {
    let all = family.get_metric();
    let cumulative = AggregationTemporality::Cumulative.into();
    let points = |value: fn(&proto::Metric) -> f64, started: u64| {
        let point = move |metric| NumberDataPoint {
            attributes: attributes(metric),
            start_time_unix_nano: started,
            time_unix_nano: now,
            value: Some(Value::AsDouble(value(metric))),
            ..NumberDataPoint::default()
        };
        all.iter().map(point).collect::<Vec<_>>()
    };
    Some(match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: points(|metric| metric.get_counter().get_value(), started),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        MetricType::GAUGE => Data::Gauge(Gauge {
            data_points: points(|metric| metric.get_gauge().get_value(), 0),
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: all
                .iter()
                .map(|metric| histogram(metric, started, now))
                .collect(),
            aggregation_temporality: cumulative,
        }),
        // The agent has none.
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    })
}

fn attributes(metric: &proto::Metric) -> Vec<KeyValue> {
    let labels = metric.get_label().iter();
    labels
        .map(|label| text(label.name(), label.value()))
        .collect()
}

/// Prometheus counts each bucket with those below it, OTLP without, and has one more above all.
fn histogram(metric: &proto::Metric, started: u64, now: u64) -> HistogramDataPoint {
    let found = metric.get_histogram();
    let finite = found.get_bucket().iter();
    let finite: Vec<_> = finite.filter(|one| one.upper_bound().is_finite()).collect();
    let count = found.get_sample_count();
    let mut below = 0;
    let upto = finite
        .iter()
        .map(|one| one.cumulative_count())
        .chain([count]);
    let bucket_counts = upto.map(|upto| {
        let own = upto.saturating_sub(below);
        below = upto;
        own
    });
    HistogramDataPoint {
        attributes: attributes(metric),
        start_time_unix_nano: started,
        time_unix_nano: now,
        count,
        sum: Some(found.get_sample_sum()),
        bucket_counts: bucket_counts.collect(),
        explicit_bounds: finite.iter().map(|one| one.upper_bound()).collect(),
        ..HistogramDataPoint::default()
    }
}
