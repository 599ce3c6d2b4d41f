//! Switches that make the server misbehave, so that clients can be tested against it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::status::Status;

/// Bytes of a drop, see [`Faults::drip`].
const DROP: usize = 48;

/// How every request is answered while a fault is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Properly.
    #[default]
    None,
    /// With this HTTP error code and a Status object.
    Code(u16),
    /// As one that has too much to do: 429, a line of text, and so many seconds to wait
    /// (kube-apiserver's priority and fairness).
    Busy(u32),
    /// With 200 and a body that is no JSON.
    Garbage,
    /// With 200 and an empty body: of a watch, one that ends as soon as it began.
    Empty,
    /// Not at all, until another fault (or none) is set.
    Hang,
}

/// How open watches are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As after the timeout: the answer is complete.
    Close,
    /// Its connection breaks in the middle of the answer.
    Break,
    /// With an ERROR event that says 410, Expired.
    Expire,
}

/// The fault switches of one server; clones share them.
#[derive(Debug, Clone)]
pub struct Faults {
    fault: Arc<watch::Sender<Fault>>,
    ends: broadcast::Sender<End>,
    drip: Arc<AtomicBool>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            fault: Arc::default(),
            ends: broadcast::Sender::new(16),
            drip: Arc::default(),
        }
    }
}

impl Faults {
    /// Answers every request that comes from now on with a fault; watches already open go on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Answers properly again, hanging requests too.
    pub fn clear(&self) {
        self.set(Fault::None);
    }

    /// Breaks the connection of every open watch in the middle of its answer.
    pub fn drop_watches(&self) {
        self.end(End::Break);
    }

    /// Ends every open watch in good order, as the server does when its timeout is over.
    pub fn close_watches(&self) {
        self.end(End::Close);
    }

    /// Ends every open watch with an ERROR event: 410, Expired.
    pub fn expire_watches(&self) {
        self.end(End::Expire);
    }

    /// Tells the events of watches in drops of a few bytes from now on, or whole again.
    pub fn drip(&self, drip: bool) {
        self.drip.store(drip, Ordering::Release);
    }

    /// The pieces that a line of a watch is told in.
    pub(super) fn pieces(&self, line: Bytes) -> Vec<Bytes> {
        if !self.drip.load(Ordering::Acquire) {
            return vec![line];
        }
        let starts = (0..line.len()).step_by(DROP);
        starts
            .map(|start| line.slice(start..line.len().min(start + DROP)))
            .collect()
    }

    fn end(&self, end: End) {
        // That no watch is open is no error.
        let _ = self.ends.send(end);
    }

    pub(super) fn ends(&self) -> broadcast::Receiver<End> {
        self.ends.subscribe()
    }

    /// Waits as long as the server is to hang, then gives the faulty answer, if any.
    pub(super) async fn answer(&self) -> Option<Response<Body>> {
        let mut fault = self.fault.subscribe();
        let fault = *fault.wait_for(|f| *f != Fault::Hang).await.ok()?;
        match fault {
            Fault::None | Fault::Hang => None,
            Fault::Code(code) => Some(Status::fault(code).response()),
            Fault::Busy(seconds) => {
                let text = "Too many requests, please try again later.\n";
                let mut response = Response::new(Body::from(text));
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into());
                Some(response)
            }
            Fault::Garbage => Some(successful("{\"kind\": \u{1}garbage, no JSON\n")),
            Fault::Empty => Some(successful("")),
        }
    }
}

fn successful(body: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
