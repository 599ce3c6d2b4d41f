//! Flow records and metrics to an OpenTelemetry collector, by OTLP 1.x
//! (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! Records wait in a bounded queue, go out in batches, and are tried again for a while; what a
//! collector does not take by then is counted, and never waited for.

mod attributes;
mod metrics;
mod records;
mod send;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use send::{Error, Protocol, Receiver};

use self::attributes::text;
use self::worker::Worker;
use super::prometheus::Metrics;
use crate::flow::Flow;

/// The semantic conventions that attributes are named by.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// What is not sent when the agent stops by this is not sent.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How much waits, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records that wait to be sent; more are counted as lost.
    pub queue: usize,
    /// Records in one request.
    pub batch: usize,
    /// A request waits so long for more records.
    pub gather: Duration,
    /// Records that are not taken within this are counted as lost.
    pub patience: Duration,
    /// Pauses between two tries: the first, and the longest. Jitter adds up to as much again.
    pub pauses: (Duration, Duration),
    /// Time between two requests with metrics.
    pub metrics: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 8192,
            batch: 512,
            gather: Duration::from_secs(1),
            patience: Duration::from_secs(60),
            pauses: (Duration::from_millis(500), Duration::from_secs(10)),
            metrics: Duration::from_secs(10),
        }
    }
}

/// Where flows are handed in.
#[derive(Clone, Debug)]
pub struct Otlp {
    queue: mpsc::Sender<Arc<Flow>>,
    lost: Arc<AtomicU64>,
}

/// The tasks that send.
#[derive(Debug)]
pub struct Exporter {
    records: JoinHandle<()>,
    metrics: JoinHandle<()>,
}

impl Otlp {
    /// Hands in flows; never waits. What does not fit is counted.
    pub fn push(&self, flows: impl IntoIterator<Item = Arc<Flow>>) {
        let full = |flow: &Arc<Flow>| self.queue.try_send(Arc::clone(flow)).is_err();
        let lost = flows.into_iter().filter(full).count();
        self.lost.fetch_add(lost as u64, Ordering::Relaxed);
    }

    /// Records that the collector did not get: the queue was full, it refused them, or it did not
    /// answer in time. The handle does not keep the queue open.
    pub fn lost(&self) -> impl Fn() -> u64 + Send + use<> {
        let lost = Arc::clone(&self.lost);
        move || lost.load(Ordering::Relaxed)
    }
}

impl Exporter {
    /// Sends what waits, after the last [`Otlp`] is dropped, for some seconds at most.
    pub async fn finish(self) {
        self.metrics.abort();
        let abort = self.records.abort_handle();
        if tokio::time::timeout(LAST_WORDS, self.records)
            .await
            .is_err()
        {
            abort.abort();
            tracing::warn!("OTLP: the collector did not take the last records");
        }
    }
}

/// Who the records and metrics are from.
#[derive(Clone, Debug)]
struct Origin {
    resource: Resource,
    scope: InstrumentationScope,
    /// When counters began, nanoseconds since the epoch.
    started: u64,
}

impl Origin {
    fn of(node: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            resource: Resource {
                attributes: vec![
                    text("service.name", "nodescope"),
                    text("service.version", version),
                    text("service.instance.id", node),
                    text("k8s.node.name", node),
                ],
                ..Resource::default()
            },
            scope: InstrumentationScope {
                name: "nodescope".to_owned(),
                version: version.to_owned(),
                ..InstrumentationScope::default()
            },
            started: nanos(SystemTime::now()),
        }
    }
}

/// Nanoseconds since the epoch; 584 years fit.
fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Starts to send what is handed in, and the metrics, as from this node. The collector need not
/// be there.
pub fn start(
    receiver: &Receiver,
    node: &str,
    metrics: Arc<Metrics>,
    limits: Limits,
) -> (Otlp, Exporter) {
    let (queue, waiting) = mpsc::channel(limits.queue);
    let lost = Arc::new(AtomicU64::new(0));
    let origin = Origin::of(node);
    let worker = Worker {
        waiting,
        sender: receiver.sender(),
        origin: origin.clone(),
        limits,
        lost: Arc::clone(&lost),
        failing: false,
    };
    let exporter = Exporter {
        records: tokio::spawn(worker.run()),
        metrics: tokio::spawn(metrics::feed(
            receiver.sender(),
            origin,
            metrics,
            limits.metrics,
        )),
    };
    (Otlp { queue, lost }, exporter)
}
