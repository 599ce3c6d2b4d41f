//! What a collector gets, over both protocols, and what becomes of what it does not take.

mod collector;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nodescope_tests::pki::Authority;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use self::collector::{Collector, Say, locked};
use super::{Exporter, Limits, Otlp, Protocol, Receiver, start};
use crate::flow::{Event, Flow};
use crate::sink::fixture::{at, masqueraded, ping, pod_to_pod, through_service};
use crate::sink::log::line;
use crate::sink::observer::convert;
use crate::sink::prometheus::{Metrics, Options};

type Tested = anyhow::Result<()>;

/// Nothing here takes long; what hangs has to fail.
const PATIENCE: Duration = Duration::from_secs(20);

const QUICK: Limits = Limits {
    queue: 64,
    batch: 16,
    gather: Duration::from_millis(20),
    patience: PATIENCE,
    pauses: (Duration::from_millis(10), Duration::from_millis(50)),
    metrics: Duration::from_millis(50),
};

async fn until(condition: impl Fn() -> bool) -> anyhow::Result<()> {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, waiting).await?)
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn sending(
    address: SocketAddr,
    protocol: Protocol,
    limits: Limits,
) -> anyhow::Result<(Otlp, Exporter, Arc<Metrics>)> {
    let path = if protocol == Protocol::Http {
        "/base"
    } else {
        ""
    };
    let receiver = Receiver::new(&format!("http://{address}{path}"), protocol, None)?;
    started(&receiver, limits)
}

fn started(receiver: &Receiver, limits: Limits) -> anyhow::Result<(Otlp, Exporter, Arc<Metrics>)> {
    let metrics = Arc::new(Metrics::new(&Options::default())?);
    let (otlp, exporter) = start(receiver, "node-1", Arc::clone(&metrics), limits);
    Ok((otlp, exporter, metrics))
}

fn flow(second: u64) -> Arc<Flow> {
    let mut flow = [pod_to_pod, masqueraded, ping, through_service][(second % 4) as usize]();
    flow.time = at(second);
    Arc::new(flow)
}

/// A value as the JSON that it was made from.
fn json_of(value: &AnyValue) -> Value {
    use any_value::Value as Kind;
    match &value.value {
        Some(Kind::BoolValue(flag)) => json!(flag),
        Some(Kind::IntValue(whole)) => json!(whole),
        Some(Kind::DoubleValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::ArrayValue(list)) => list.values.iter().map(json_of).collect(),
        Some(Kind::KvlistValue(fields)) => object(&fields.values),
        _ => Value::Null,
    }
}

fn object(fields: &[KeyValue]) -> Value {
    let fields = fields.iter().map(|field| {
        let value = field.value.as_ref().map_or(Value::Null, json_of);
        (field.key.clone(), value)
    });
    Value::Object(fields.collect())
}

#[tokio::test]
async fn records_are_those_of_the_flow_log_in_order_over_both_protocols() -> Tested {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let collector = Collector::default();
        let (address, serving) = collector.serve(protocol, any_port()).await?;
        let (otlp, exporter, _) = sending(address, protocol, QUICK)?;
        let lost = otlp.lost();
        otlp.push((0..40).map(flow));
        for (second, record) in collector.has(40).await?.iter().enumerate() {
            let flow = flow(second as u64);
            let mut logged = Vec::new();
            line::write(convert::response(&flow), &mut logged)?;
            let body = record.body.as_ref().map(json_of);
            assert_eq!(body, Some(serde_json::from_slice(&logged)?), "{protocol:?}");
            assert_eq!(record.time_unix_nano, second as u64 * 1_000_000_000);
            assert_eq!(record.event_name, "nodescope.flow");
            let body = body.unwrap_or_default();
            let attributes = object(&record.attributes);
            assert_eq!(attributes["log.record.uid"], body["flow"]["uuid"]);
        }
        assert_eq!(lost(), 0);
        let requests = locked(&collector.0.logs).len();
        assert!(
            (3..40).contains(&requests),
            "{requests} requests for 40 records"
        );
        // What waits when the agent stops is sent.
        otlp.push([flow(40)]);
        drop(otlp);
        exporter.finish().await;
        assert_eq!(collector.records().len(), 41);
        serving.abort();
    }
    Ok(())
}

#[tokio::test]
async fn a_collector_over_https_is_checked_by_the_authorities_of_the_file() -> Tested {
    let directory = tempfile::tempdir()?;
    let (own, others) = (
        directory.path().join("own"),
        directory.path().join("others"),
    );
    let authority = Authority::new("collectors")?;
    std::fs::write(&own, authority.pem())?;
    std::fs::write(&others, Authority::new("others")?.pem())?;
    let issued = authority.issue(&["localhost"])?;
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let collector = Collector::default();
        let (address, serving) = collector.serve_tls(protocol, &issued).await?;
        let url = format!("https://localhost:{}/base", address.port());
        // One that others vouch for is not spoken to.
        let impatient = Limits {
            patience: Duration::from_millis(200),
            ..QUICK
        };
        let receiver = Receiver::new(&url, protocol, Some(&others))?;
        let (otlp, exporter, _) = started(&receiver, impatient)?;
        let lost = otlp.lost();
        otlp.push((0..4).map(flow));
        until(|| lost() == 4).await?;
        drop(otlp);
        exporter.finish().await;
        assert!(collector.records().is_empty(), "{protocol:?}");
        let receiver = Receiver::new(&url, protocol, Some(&own))?;
        let (otlp, exporter, _) = started(&receiver, QUICK)?;
        otlp.push((0..4).map(flow));
        assert_eq!(collector.has(4).await?.len(), 4);
        drop(otlp);
        exporter.finish().await;
        serving.abort();
    }
    Ok(())
}

#[tokio::test]
async fn a_file_without_authorities_is_said() -> Tested {
    let directory = tempfile::tempdir()?;
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "nothing")?;
    for (file, why) in [
        (&empty, "no certificate"),
        (&directory.path().join("no"), "No such"),
    ] {
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let Err(error) = Receiver::new("https://otel:4317", protocol, Some(file)) else {
                panic!("{} is taken", file.display());
            };
            let said = error.to_string();
            assert!(said.contains("--otlp-ca") && said.contains(why), "{said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn attributes_have_the_names_of_the_conventions() -> Tested {
    let mut dropped = pod_to_pod();
    dropped.event = Event::Drop;
    for (flow, wanted) in [
        (
            through_service(),
            json!({
                "source.address": "10.244.0.15", "source.port": 40_000,
                "destination.address": "10.244.1.20", "destination.port": 5432,
                "network.transport": "tcp", "network.type": "ipv4",
                "network.interface.name": "eth0",
                "source.k8s.namespace.name": "shop", "source.k8s.pod.name": "web-0",
                "source.k8s.deployment.name": "web",
                "destination.k8s.service.name": "db",
                "nodescope.class": "pod-to-pod", "nodescope.nat.kind": "dnat",
                "nodescope.event": "close", "nodescope.verdict": "FORWARDED",
                "nodescope.forward.packets": 1, "nodescope.reply.bytes": 100,
            }),
        ),
        (
            ping(),
            json!({
                "network.transport": "icmpv4", "source.port": null,
                "source.k8s.node.name": "node-1", "destination.k8s.pod.name": "web-0",
            }),
        ),
        (
            dropped,
            json!({"nodescope.event": "drop", "nodescope.verdict": "DROPPED"}),
        ),
    ] {
        let record = super::records::record(&flow)?;
        let found = object(&record.attributes);
        for (key, value) in wanted.as_object().context("no object")? {
            assert_eq!(&found[key], value, "{key} of {found}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn metrics_are_those_that_prometheus_gets() -> Tested {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let collector = Collector::default();
        let (address, serving) = collector.serve(protocol, any_port()).await?;
        let (_otlp, exporter, metrics) = sending(address, protocol, QUICK)?;
        metrics.observe([&pod_to_pod(), &masqueraded()]);
        let total = |name: &str| {
            let all = locked(&collector.0.metrics);
            let request = all.last()?;
            let scope = &request.resource_metrics.first()?.scope_metrics.first()?;
            let metric = scope.metrics.iter().find(|metric| metric.name == name)?;
            let Some(Data::Sum(sum)) = &metric.data else {
                return None;
            };
            assert!(
                sum.is_monotonic && sum.aggregation_temporality == 2,
                "{sum:?}"
            );
            let values = sum.data_points.iter().filter_map(|point| point.value);
            let values = values.map(|value| match value {
                number_data_point::Value::AsDouble(value) => value,
                number_data_point::Value::AsInt(value) => value as f64,
            });
            Some((values.sum::<f64>(), metric.unit.clone()))
        };
        let text = String::from_utf8(metrics.text(crate::sink::prometheus::Format::Text)?)?;
        let scraped: f64 = text
            .lines()
            .filter(|line| line.starts_with("nodescope_flow_bytes_total{"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum();
        ensure!(scraped > 0.0, "{text}");
        let wanted = Some((scraped, "By".to_owned()));
        until(|| total("nodescope_flow_bytes_total") == wanted).await?;
        exporter.finish().await;
        serving.abort();
    }
    Ok(())
}

#[tokio::test]
async fn what_a_collector_wants_later_is_sent_again_and_what_it_never_wants_is_counted() -> Tested {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let collector = Collector::default();
        // Said from the last to the first.
        *locked(&collector.0.say) = vec![Say::But(2), Say::Never, Say::Later, Say::Later];
        let (address, serving) = collector.serve(protocol, any_port()).await?;
        let (otlp, exporter, _) = sending(address, protocol, QUICK)?;
        let lost = otlp.lost();
        // Two times later, then never: three tries, and 4 records gone.
        otlp.push((0..4).map(flow));
        until(|| lost() == 4).await?;
        assert_eq!(collector.0.tries.load(Ordering::Relaxed), 3, "{protocol:?}");
        // Taken but for two, then all.
        otlp.push((4..8).map(flow));
        until(|| lost() == 6).await?;
        otlp.push((8..12).map(flow));
        assert_eq!(collector.has(8).await?.len(), 8);
        assert_eq!((lost(), collector.0.tries.load(Ordering::Relaxed)), (6, 5));
        drop(otlp);
        exporter.finish().await;
        serving.abort();
    }
    Ok(())
}

#[tokio::test]
async fn without_a_collector_records_wait_then_are_counted_and_go_on_when_it_is_back() -> Tested {
    const FLOWS: usize = 200;
    for protocol in [Protocol::Grpc, Protocol::Http] {
        // An address where nobody listens now.
        let address = TcpListener::bind(any_port()).await?.local_addr()?;
        let (otlp, exporter, _) = sending(address, protocol, QUICK)?;
        let lost = otlp.lost();
        // More than the queue and the batch on its way hold; nobody waits.
        otlp.push((0..FLOWS as u64).map(flow));
        let overflowed = usize::try_from(lost())?;
        assert!(
            overflowed >= FLOWS - QUICK.queue - QUICK.batch,
            "{overflowed}"
        );
        let collector = Collector::default();
        let (_, serving) = collector.serve(protocol, address).await?;
        let kept = collector.has(FLOWS - overflowed).await?;
        assert_eq!(kept.len() + usize::try_from(lost())?, FLOWS, "{protocol:?}");
        otlp.push([flow(7)]);
        collector.has(kept.len() + 1).await?;
        serving.abort();
        exporter.finish().await;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_taken_in_time_is_counted() -> Tested {
    let address = TcpListener::bind(any_port()).await?.local_addr()?;
    let hurried = Limits {
        patience: Duration::from_millis(100),
        ..QUICK
    };
    let (otlp, exporter, _) = sending(address, Protocol::Http, hurried)?;
    let lost = otlp.lost();
    otlp.push((0..10).map(flow));
    until(|| lost() == 10).await?;
    drop(otlp);
    exporter.finish().await;
    Ok(())
}

#[tokio::test]
async fn a_url_that_is_none_is_named() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let Err(error) = Receiver::new("http://a b", protocol, None) else {
            panic!("taken")
        };
        let said = error.to_string();
        assert!(said.starts_with("--otlp-endpoint http://a b: "), "{said}");
    }
}
