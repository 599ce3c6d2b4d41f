//! WATCH: changes as a stream of JSON lines, with bookmarks and initial events.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::faults::{End, Faults};
use super::history::Change;
use super::kinds::Kind;
use super::negotiate::Form;
use super::object;
use super::params::Params;
use super::status::Status;
use super::store::{Start, Subscription};
use super::table::{self, Style};

/// How long a watch lasts where the client names no limit: the real server's least time
/// (`--min-request-timeout`, 1800 s).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// Marks the bookmark after the last of the initial events (KEP 3157).
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// The pause after a piece of a line that is told in drops.
const DRIP: Duration = Duration::from_millis(5);

/// Events made ahead of what the client has read.
const AHEAD: usize = 16;

/// Begins a watch and gives the body of its answer.
///
/// # Errors
/// 504 where initial events are to show a version that is not there yet, 422 where they are asked
/// of a server that refuses. A version that is too
/// old is told within the stream, as the real server does.
pub(super) fn body(
    shared: &Arc<Shared>,
    kind: &'static Kind,
    namespace: Option<String>,
    params: Params,
    form: Form,
) -> Result<Body, Status> {
    let params = shared.streaming_lists().apply(params)?;
    let version = params.version.filter(|v| *v > 0);
    let start = match (params.initial_events, version) {
        (Some(true), _) | (None, None) => Start::Current,
        (Some(false), None) => Start::Now,
        (_, Some(version)) => Start::After(version),
    };
    let current = shared.store.version();
    if let (Start::Current, Some(asked)) = (start, version)
        && asked > current
    {
        return Err(Status::too_large_version(asked, current));
    }
    let (lines, receiver) = mpsc::channel(AHEAD);
    let ends = shared.faults.ends();
    let subscription = shared.store.subscribe(kind, start).map_err(|_| {
        let asked = version.unwrap_or_default();
        Status::expired(format!("too old resource version: {asked} ({current})"))
    });
    let watch = Watch {
        kind,
        namespace,
        params,
        form,
        headed: false,
        seen: 0,
        faults: shared.faults.clone(),
        lines,
    };
    let open = shared.counters.watch_opened(kind.plural);
    let interval = shared.bookmark_interval();
    tokio::spawn(async move {
        let _open = open;
        // The client has gone where a line cannot be sent: the watch is over then too.
        let _ = match subscription {
            Ok(subscription) => watch.run(subscription, start, ends, interval).await,
            Err(expired) => watch.error(&expired).await,
        };
    });
    Ok(Body::from_stream(ReceiverStream::new(receiver)))
}

/// The client no longer reads.
struct Gone;

/// A line of the answer, its fields in the real server's order: a client that knows the type
/// first reads the object in one go.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    object: &'a Value,
}

struct Watch {
    kind: &'static Kind,
    namespace: Option<String>,
    params: Params,
    form: Form,
    /// Whether a table's columns have been told.
    headed: bool,
    /// The newest version looked at, of any kind.
    seen: u64,
    faults: Faults,
    lines: mpsc::Sender<io::Result<Bytes>>,
}

impl Watch {
    async fn run(
        mut self,
        subscription: Subscription,
        start: Start,
        mut ends: broadcast::Receiver<End>,
        bookmark_interval: Duration,
    ) -> Result<(), Gone> {
        let Subscription {
            initial,
            backlog,
            mut changes,
            version,
        } = subscription;
        let deadline = Instant::now() + self.params.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let mut bookmarks = interval_at(Instant::now() + bookmark_interval, bookmark_interval);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for object in &initial {
            if self.selects(object) {
                self.event("ADDED", object).await?;
            }
        }
        self.seen = match start {
            Start::After(asked) => asked,
            Start::Current | Start::Now => version,
        };
        if self.params.initial_events == Some(true) {
            self.bookmark(true).await?;
        }
        for change in &backlog {
            self.change(change).await?;
        }
        let lines = self.lines.clone();
        loop {
            tokio::select! {
                () = lines.closed() => return Err(Gone),
                end = ends.recv() => return self.end(end.unwrap_or(End::Close)).await,
                change = changes.recv() => match change {
                    Ok(change) => self.change(&change).await?,
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        let why = format!("the watch fell behind by {missed} changes");
                        return self.error(&Status::expired(why)).await;
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                _ = bookmarks.tick() => self.bookmark(false).await?,
                () = sleep_until(deadline) => return self.bookmark(false).await,
            }
        }
    }

    fn selects(&self, object: &Value) -> bool {
        self.params.selects(self.namespace.as_deref(), object)
    }

    /// Tells a change as the selection sees it: an object that begins to match is added to it,
    /// one that no longer matches is deleted from it.
    async fn change(&mut self, change: &Change) -> Result<(), Gone> {
        if change.version <= self.seen {
            return Ok(());
        }
        self.seen = change.version;
        if change.kind.plural != self.kind.plural {
            return Ok(());
        }
        let before = change.before.as_deref().filter(|o| self.selects(o));
        let after = change.after.as_deref().filter(|o| self.selects(o));
        match (before, after) {
            (None, Some(after)) => self.event("ADDED", after).await,
            (Some(_), Some(after)) => self.event("MODIFIED", after).await,
            (Some(before), None) => {
                self.event("DELETED", &object::with_version(before, change.version))
                    .await
            }
            (None, None) => Ok(()),
        }
    }

    async fn event(&mut self, kind: &str, object: &Value) -> Result<(), Gone> {
        let object = match self.form {
            Form::Object => return self.send(kind, object).await,
            Form::Metadata => object::partial(object),
            Form::Table(version) => {
                let metadata = json!({"resourceVersion": object::version(object)});
                table::table(self.kind, [object], metadata, self.style(version))
            }
        };
        self.send(kind, &object).await
    }

    async fn bookmark(&mut self, initial_end: bool) -> Result<(), Gone> {
        if !self.params.bookmarks {
            return Ok(());
        }
        let mut metadata =
            json!({"resourceVersion": self.seen.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let object = match self.form {
            Form::Object => json!({
                "kind": self.kind.kind,
                "apiVersion": self.kind.api_version(),
                "metadata": metadata,
            }),
            Form::Metadata => object::partial(&json!({"metadata": metadata})),
            Form::Table(version) => table::table(self.kind, [], metadata, self.style(version)),
        };
        self.send("BOOKMARK", &object).await
    }

    async fn error(&self, status: &Status) -> Result<(), Gone> {
        self.send("ERROR", &status.body()).await
    }

    async fn end(&self, end: End) -> Result<(), Gone> {
        match end {
            End::Close => Ok(()),
            End::Expire => {
                self.error(&Status::expired("The resourceVersion is too old."))
                    .await
            }
            End::Break => {
                let broken = io::Error::from(io::ErrorKind::ConnectionAborted);
                self.lines.send(Err(broken)).await.map_err(|_| Gone)
            }
        }
    }

    fn style(&mut self, version: &'static str) -> Style {
        let headings = !std::mem::replace(&mut self.headed, true);
        Style {
            version,
            include: self.params.include_object,
            headings,
        }
    }

    async fn send(&self, kind: &str, object: &Value) -> Result<(), Gone> {
        let event = Event { kind, object };
        let mut line = serde_json::to_vec(&event).map_err(|_| Gone)?;
        line.push(b'\n');
        let pieces = self.faults.pieces(Bytes::from(line));
        let drips = pieces.len() > 1;
        for piece in pieces {
            self.lines.send(Ok(piece)).await.map_err(|_| Gone)?;
            if drips {
                tokio::time::sleep(DRIP).await;
            }
        }
        Ok(())
    }
}
