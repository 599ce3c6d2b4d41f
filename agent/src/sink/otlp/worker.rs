//! The task that sends flow records: batches, retries, counted loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backon::BackoffBuilder as _;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::send::Sender;
use super::{Limits, Origin, records};
use crate::flow::Flow;

pub(super) struct Worker {
    pub(super) waiting: mpsc::Receiver<Arc<Flow>>,
    pub(super) sender: Sender,
    pub(super) origin: Origin,
    pub(super) limits: Limits,
    pub(super) lost: Arc<AtomicU64>,
    /// Whether the last request was not taken, which has been told.
    pub(super) failing: bool,
}

impl Worker {
    /// Sends until all is sent that was handed in and nobody can hand in more.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        while self.waiting.recv_many(&mut batch, self.limits.batch).await > 0 {
            self.fill(&mut batch).await;
            let (flows, origin) = (std::mem::take(&mut batch), self.origin.clone());
            let count = flows.len();
            // Some tens of microseconds for each record: not for the reactor.
            let made = tokio::task::spawn_blocking(move || records::requests(&origin, &flows));
            let requests = made.await.unwrap_or_default();
            let sent: usize = requests.iter().map(|(records, _)| records).sum();
            self.lose(count - sent);
            for (records, request) in requests {
                self.deliver(records, request).await;
            }
        }
    }

    /// Waits a little for more, so that few records are not many requests.
    async fn fill(&mut self, batch: &mut Vec<Arc<Flow>>) {
        let due = Instant::now() + self.limits.gather;
        while batch.len() < self.limits.batch {
            let room = self.limits.batch - batch.len();
            match tokio::time::timeout_at(due, self.waiting.recv_many(batch, room)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    async fn deliver(&mut self, records: usize, request: ExportLogsServiceRequest) {
        let (first, longest) = self.limits.pauses;
        let mut pauses = backon::ExponentialBuilder::default()
            .with_min_delay(first)
            .with_max_delay(longest)
            .with_jitter()
            .without_max_times()
            .build();
        let give_up = Instant::now() + self.limits.patience;
        loop {
            let failure = match self.sender.logs(request.clone()).await {
                Ok(refused) => return self.taken(refused, records),
                Err(failure) => failure,
            };
            if !self.failing {
                self.failing = true;
                let reason = &failure.reason;
                tracing::warn!(
                    reason,
                    "OTLP: records not taken; what is not in time is counted"
                );
            }
            let pause = failure.after.or_else(|| pauses.next()).unwrap_or(longest);
            let next = Instant::now() + pause;
            if !failure.again || next > give_up {
                return self.lose(records);
            }
            tokio::time::sleep_until(next).await;
        }
    }

    fn taken(&mut self, refused: Refused, records: usize) {
        if let Some((refused, why)) = refused {
            tracing::warn!(refused, why, "OTLP: the collector refused records");
            self.lose(refused.min(records));
        } else if self.failing {
            tracing::info!("OTLP: records are taken again");
        }
        self.failing = false;
    }

    fn lose(&self, records: usize) {
        self.lost.fetch_add(records as u64, Ordering::Relaxed);
    }
}

/// Records that a collector took part in refusing, and why.
pub(super) type Refused = Option<(usize, String)>;
