//! The stream behind one `GetFlows`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::convert;
use super::filter::Filters;
use super::select::Selection;
use super::state::Observer;
use crate::flow::Flow;
use crate::sink::proto::flow::{LostEvent, LostEventSource};
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// Flows taken from the ring at once.
const PORTION: usize = 256;

/// Responses that wait for a slow reader, on top of what HTTP/2 flow control lets through.
const QUEUE: usize = 256;

type Sender = mpsc::Sender<Result<GetFlowsResponse, Status>>;

/// What a stream that cannot go on says: the reader went away, or the server stops.
struct Ended;

/// Starts to send.
pub(super) fn start(
    observer: Observer,
    selection: Selection,
    filters: Filters,
) -> mpsc::Receiver<Result<GetFlowsResponse, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let stream = Stream {
            closing: observer.watch_closing(),
            observer,
            selection,
            filters: Arc::new(filters),
            sender,
        };
        // How a stream ended is no news: either its reader knows, or there is none.
        let _: Result<(), Ended> = stream.run().await;
    });
    receiver
}

struct Stream {
    observer: Observer,
    selection: Selection,
    filters: Arc<Filters>,
    sender: Sender,
    closing: watch::Receiver<bool>,
}

impl Stream {
    async fn run(mut self) -> Result<(), Ended> {
        // Subscribed before the snapshot, so that nothing falls between the two.
        let mut seen = self.observer.watch_seen();
        let snapshot = self.observer.snapshot();
        let mut next = snapshot.next;
        for response in self.backlog(snapshot.items).await? {
            self.send(response).await?;
        }
        if !self.selection.follow {
            return Ok(());
        }
        loop {
            seen.mark_unchanged();
            let batch = self.observer.read(next, PORTION);
            next = batch.next;
            if batch.lost > 0 {
                self.observer.note_missed(batch.lost);
                self.send(self.lost(batch.lost)).await?;
            }
            let waiting = batch.items.is_empty();
            for flow in batch.items {
                if self.selection.is_past(Some(flow.time)) {
                    return Ok(());
                }
                if let Some(response) = admit(&self.filters, &self.selection, &flow) {
                    self.send(response).await?;
                }
            }
            if waiting {
                self.wait(&mut seen).await?;
            }
        }
    }

    /// What is asked for of the kept flows; off the reactor, for it may be thousands.
    async fn backlog(&self, flows: Vec<Arc<Flow>>) -> Result<Vec<GetFlowsResponse>, Ended> {
        if self.selection.live_only() {
            return Ok(Vec::new());
        }
        let (filters, selection) = (Arc::clone(&self.filters), self.selection);
        tokio::task::spawn_blocking(move || {
            selection.pick(flows.into_iter(), |flow| admit(&filters, &selection, &flow))
        })
        .await
        .map_err(|_| Ended)
    }

    async fn send(&self, response: GetFlowsResponse) -> Result<(), Ended> {
        let mut closing = self.closing.clone();
        tokio::select! {
            sent = self.sender.send(Ok(response)) => sent.map_err(|_| Ended),
            _ = closing.wait_for(|closing| *closing) => Err(Ended),
        }
    }

    /// Until there is more to send; ends with the reader, the server or the range of time.
    async fn wait(&mut self, seen: &mut watch::Receiver<u64>) -> Result<(), Ended> {
        let until = self.selection.until;
        let range_over = async {
            match until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default()) {
                // A little later, for a flow of that time may still be on its way.
                Some(left) => tokio::time::sleep(left + Duration::from_secs(1)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            more = seen.changed() => more.map_err(|_| Ended),
            () = self.sender.closed() => Err(Ended),
            _ = self.closing.wait_for(|closing| *closing) => Err(Ended),
            () = range_over => Err(Ended),
        }
    }

    fn lost(&self, count: u64) -> GetFlowsResponse {
        GetFlowsResponse {
            node_name: self.observer.config().node.clone(),
            time: Some(SystemTime::now().into()),
            response_types: Some(ResponseTypes::LostEvents(LostEvent {
                source: LostEventSource::HubbleRingBuffer.into(),
                num_events_lost: count,
                ..LostEvent::default()
            })),
        }
    }
}

fn admit(filters: &Filters, selection: &Selection, flow: &Flow) -> Option<GetFlowsResponse> {
    // Time is known without the conversion, which is the dear part.
    if !selection.covers(Some(flow.time)) {
        return None;
    }
    let response = convert::response(flow);
    let Some(ResponseTypes::Flow(record)) = &response.response_types else {
        return None;
    };
    filters.pass(record).then_some(response)
}
