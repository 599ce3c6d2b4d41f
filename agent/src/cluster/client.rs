//! The way to the API for as long as the agent runs. Credentials are read anew when they are no
//! longer good, what the server asks for is heard, and a watch does not wait for a history that
//! will never come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::client::Body;
use kube::core::Status;
use kube::core::response::StatusDetails;
use kube::{Client, Error};
use tokio::time::Instant;

use super::config::{self, Config};
use super::connect::connect;

/// At least this long between the beginnings of two watches of the same objects: some servers end
/// one as soon as it began, and call that success.
const APART: Duration = Duration::from_secs(1);

/// A client that lasts; none when there is to be no API. Nothing is sent yet.
///
/// # Errors
/// As [`super::start`].
pub(super) async fn client(config: &Config) -> Result<Option<Client>, config::Error> {
    let Some(first) = build(config).await? else {
        return Ok(None);
    };
    let namespace = first.default_namespace().to_owned();
    let way = Arc::new(Way {
        config: config.clone(),
        current: ArcSwap::from_pointee(first),
        renewing: tokio::sync::Mutex::default(),
        watches: Mutex::default(),
    });
    let service = tower::service_fn(move |request| {
        let way = Arc::clone(&way);
        async move {
            let answer = way.send(request).await?;
            // A watch that breaks off in the middle may be the server's end.
            Ok::<_, Error>(answer.map(|body| {
                body.map_err(move |error| {
                    way.doubt();
                    error
                })
            }))
        }
    });
    Ok(Some(Client::new(service, namespace)))
}

async fn build(config: &Config) -> Result<Option<Client>, config::Error> {
    let Some(api) = config.api().await? else {
        return Ok(None);
    };
    match connect(api, config.patience) {
        Ok(client) => Ok(Some(client)),
        Err(error) => Err(config.unusable(&error)),
    }
}

struct Way {
    config: Config,
    current: ArcSwap<Client>,
    /// Held by who makes a new client.
    renewing: tokio::sync::Mutex<()>,
    /// By path and selection.
    watches: Mutex<HashMap<String, Watched>>,
}

/// What is remembered of a watch.
struct Watched {
    /// When the next one may begin.
    next: Instant,
    /// Whether the server may be another than the one that told the version to begin at.
    doubtful: bool,
}

/// A request to begin a watch after a version.
struct Watch {
    /// Path and selection.
    of: String,
    /// The request that lists the first of the same objects.
    list: String,
    version: u64,
}

impl Watch {
    fn of(uri: &Uri) -> Option<Self> {
        let query = uri.query()?;
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        if !matches!(value("watch"), Some("true" | "1")) {
            return None;
        }
        let mut of = uri.path().to_owned();
        let mut list = format!("{of}?limit=1");
        for name in ["fieldSelector", "labelSelector"] {
            if let Some(value) = value(name) {
                of = format!("{of}&{name}={value}");
                list = format!("{list}&{name}={value}");
            }
        }
        let version = value("resourceVersion").and_then(|version| version.parse().ok());
        Some(Self {
            of,
            list,
            version: version.unwrap_or(0),
        })
    }
}

impl Way {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        if let Some(watch) = Watch::of(request.uri()) {
            let doubtful = self.turn(&watch.of).await;
            if doubtful && watch.version > 0 {
                self.reaches(&watch).await?;
                if let Some(watched) = self.watches().get_mut(&watch.of) {
                    watched.doubtful = false;
                }
            }
        }
        self.ask(request).await
    }

    /// Waits until a watch may begin; whether the server is to be asked how far it is.
    async fn turn(&self, watch: &str) -> bool {
        let now = Instant::now();
        let (at, doubtful) = {
            let mut watches = self.watches();
            let watched = watches.entry(watch.to_owned()).or_insert(Watched {
                next: now,
                doubtful: false,
            });
            let at = watched.next.max(now);
            watched.next = at + APART;
            (at, watched.doubtful)
        };
        tokio::time::sleep_until(at).await;
        doubtful
    }

    /// Whether the server has come as far as where a watch is to begin. One that was restored from
    /// a backup has not: it keeps such a watch open, and says nothing until its versions have
    /// grown that far (etcd's watches of a future revision), so everything has to be read anew.
    async fn reaches(&self, watch: &Watch) -> Result<(), Error> {
        let request = Request::get(&watch.list).body(Body::empty());
        let answer = self.ask(request.map_err(Error::HttpError)?).await?;
        if !answer.status().is_success() {
            return Err(refusal(answer, 0).await);
        }
        let listed: Listed = serde_json::from_slice(&answer.into_body().collect_bytes().await?)
            .map_err(Error::SerdeError)?;
        let reached = listed.metadata.resource_version.unwrap_or_default();
        match reached.parse::<u64>() {
            Ok(reached) if reached < watch.version => {
                tracing::warn!(
                    objects = watch.of,
                    told = watch.version,
                    reached,
                    "the API server's history ends before what it told earlier, as after a restore \
                     from a backup: reading everything anew"
                );
                let status = Status::failure("the history is older than the version", "Expired");
                Err(Error::Api(Box::new(status.with_code(410))))
            }
            _ => Ok(()),
        }
    }

    async fn ask(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let client = self.current.load_full();
        let patience = self.config.patience.answer;
        let answer = tokio::time::timeout(patience, client.send(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Error::Service(Box::new(NoAnswer(patience)))));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.doubt();
                self.renew(&client).await;
                return Err(error);
            }
        };
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            self.renew(&client).await;
        }
        if status.is_server_error() {
            self.doubt();
        }
        match pause(&answer) {
            Some(seconds) if !status.is_success() => Err(refusal(answer, seconds).await),
            _ => Ok(answer),
        }
    }

    /// Every watch that begins from now on may meet another server.
    fn doubt(&self) {
        for watched in self.watches().values_mut() {
            watched.doubtful = true;
        }
    }

    /// Reads the configuration and what it names anew, unless somebody did since: a token, an
    /// authority or a certificate may have been replaced.
    async fn renew(&self, refused: &Arc<Client>) {
        let _turn = self.renewing.lock().await;
        if !Arc::ptr_eq(&self.current.load(), refused) {
            return;
        }
        match build(&self.config).await {
            Ok(Some(client)) => self.current.store(Arc::new(client)),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "credentials stay as they were"),
        }
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a list, only which version it shows.
#[derive(serde::Deserialize)]
struct Listed {
    metadata: ListMeta,
}

/// The server took the request and said nothing.
#[derive(Debug, thiserror::Error)]
#[error("the API server has not answered within {}", humantime::format_duration(*.0))]
struct NoAnswer(Duration);

/// The seconds to wait that an answer asks for (RFC 9110, 10.2.3). API servers never give the
/// other form, a date.
fn pause(answer: &Response<Body>) -> Option<u32> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok()
}

/// What an answer refuses with, and the pause that it asks for: the library passes on what the
/// body says and no header, and an overloaded server says it in the header alone.
async fn refusal(answer: Response<Body>, seconds: u32) -> Error {
    let code = answer.status();
    let body = answer.into_body().collect_bytes().await;
    let body: Bytes = body.unwrap_or_default();
    let mut status: Status = serde_json::from_slice(&body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body);
        let line = text.trim().lines().next().unwrap_or_default();
        let reason = code.canonical_reason().unwrap_or_default();
        Status::failure(line, reason).with_code(code.as_u16())
    });
    let details = status.details.get_or_insert_with(|| StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    });
    details.retry_after_seconds = details.retry_after_seconds.max(seconds);
    Error::Api(Box::new(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_told_by_what_they_watch() -> Result<(), Box<dyn std::error::Error>> {
        let of = |uri: &str| -> Result<_, http::uri::InvalidUri> {
            let watch = Watch::of(&uri.parse()?);
            Ok(watch.map(|watch| (watch.of, watch.list, watch.version)))
        };
        assert_eq!(of("/api/v1/pods?limit=500")?, None);
        assert_eq!(of("/api/v1/pods")?, None);
        let plain = of("/api/v1/pods?watch=true&timeoutSeconds=290&resourceVersion=17")?;
        let words = |of: &str, list: &str| Some((of.to_owned(), list.to_owned(), 17));
        assert_eq!(plain, words("/api/v1/pods", "/api/v1/pods?limit=1"));
        let one = "/c?watch=1&fieldSelector=metadata.name%3Da&resourceVersion=17";
        let selected = "fieldSelector=metadata.name%3Da";
        let list = format!("/c?limit=1&{selected}");
        assert_eq!(of(one)?, words(&format!("/c&{selected}"), &list));
        let opaque = of("/c?watch=true&resourceVersion=abc")?;
        assert_eq!(opaque.map(|(_, _, version)| version), Some(0));
        Ok(())
    }
}
