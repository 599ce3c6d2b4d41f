//! Switches that make the server misbehave, so that clients can be tested against it.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use tokio::sync::{broadcast, watch};

use super::status::Status;

/// How every request is answered while a fault is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Properly.
    #[default]
    None,
    /// With this HTTP error code and a Status object.
    Code(u16),
    /// With 200 and a body that is no JSON.
    Garbage,
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
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            fault: Arc::default(),
            ends: broadcast::Sender::new(16),
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
            Fault::Garbage => {
                let mut response = Response::new(Body::from("{\"kind\": \u{1}garbage, no JSON\n"));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                Some(response)
            }
        }
    }
}
