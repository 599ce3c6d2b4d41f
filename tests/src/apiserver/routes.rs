//! From a request to its answer.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::Shared;
use super::forward::{self, Dial};
use super::kinds::{self, Kind};
use super::list::{self, Listing};
use super::negotiate::{self, Form};
use super::object;
use super::params::{IncludeObject, Params};
use super::patch;
use super::paths::{self, Target};
use super::respond;
use super::stamp::Part;
use super::status::{Status, json_response};
use super::store::Key;
use super::watch;
use super::write::Preconditions;

/// Largest request body taken, in bytes (the real server's limit for a resource).
const BODY_LIMIT: usize = 3 << 20;

/// Answers one request.
pub(super) async fn handle(shared: Arc<Shared>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let call = Call {
        target: paths::parse(path),
        method: parts.method.clone(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        shared: &shared,
    };
    shared
        .counters
        .request(call.verb(), call.target.resource(path));
    if let Some(fault) = shared.faults.answer().await {
        return fault;
    }
    if !call.target.is_public()
        && let Err(refusal) = shared.auth.check(call.headers)
    {
        shared.counters.refused();
        return refusal.response();
    }
    if let Target::PortForward { namespace, name } = &call.target {
        let key = (namespace.clone(), name.clone());
        let request = Request::from_parts(parts.clone(), body);
        let answer = port_forward(&shared, key, request);
        return answer.unwrap_or_else(|refusal| refusal.response());
    }
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else {
        return Status::too_large(BODY_LIMIT).response();
    };
    call.answer(&body)
        .unwrap_or_else(|refusal| refusal.response())
}

/// Forwards a port of a pod, if the server was told how.
fn port_forward(
    shared: &Arc<Shared>,
    key: Key,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let ports = forward::ports(request.uri().query().unwrap_or_default())?;
    let kind = kinds::by_object("v1", "Pod").ok_or_else(Status::no_such_path)?;
    let pod = shared.store.read(kind, &key);
    let pod = pod.ok_or_else(|| Status::not_found(kind, &key.1))?;
    if shared.pods.get().is_none() {
        return Err(Status::method_not_allowed());
    }
    let mut gate = shared.listener.changes();
    let over = async move {
        let _ = gate.changed().await;
    };
    let reached = Arc::clone(shared);
    let dial: Dial = Arc::new(move |port| match reached.pods.get() {
        Some(dial) => dial(&pod, port),
        None => Err(std::io::ErrorKind::NotFound.into()),
    });
    forward::answer(request, ports, dial, over)
}

struct Call<'a> {
    target: Target,
    method: Method,
    query: &'a str,
    headers: &'a HeaderMap,
    shared: &'a Arc<Shared>,
}

impl Call<'_> {
    /// The API verb, as RBAC and the counters name it.
    fn verb(&self) -> &'static str {
        let collection = matches!(self.target, Target::Collection(..));
        match self.method {
            Method::GET if self.watches() => "watch",
            Method::GET if collection => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if collection => "deletecollection",
            Method::DELETE => "delete",
            _ => "other",
        }
    }

    fn watches(&self) -> bool {
        let watch = |(key, value): (Cow<'_, str>, Cow<'_, str>)| {
            key == "watch" && !matches!(&*value, "" | "0" | "false")
        };
        matches!(self.target, Target::Collection(..))
            && form_urlencoded::parse(self.query.as_bytes()).any(watch)
    }

    fn answer(&self, body: &[u8]) -> Result<Response<Body>, Status> {
        match &self.target {
            Target::Collection(kind, namespace) => {
                self.collection(kind, namespace.as_deref(), body)
            }
            Target::Object {
                kind,
                namespace,
                name,
                status,
            } => self.object(kind, &(namespace.clone(), name.clone()), *status, body),
            Target::Unknown => Err(Status::no_such_path()),
            _ if self.method != Method::GET => Err(Status::method_not_allowed()),
            target => respond::information(target),
        }
    }

    fn collection(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        body: &[u8],
    ) -> Result<Response<Body>, Status> {
        let store = &self.shared.store;
        // Without a namespace in the path only the kinds that have none can be written.
        let written = if kind.namespaced { namespace } else { Some("") };
        match (&self.method, written) {
            (&Method::GET, _) => {
                let params = Params::parse(self.query, kind)?;
                if params.watch {
                    return self.watch(kind, namespace.map(str::to_owned), params);
                }
                let listing = list::list(store, kind, namespace, &params)?;
                Ok(self.many(kind, &listing, params.include_object))
            }
            (&Method::POST, Some(namespace)) => {
                self.refuse_dry_run()?;
                let created = store.create(kind, namespace, self.read(body)?)?;
                self.one(StatusCode::CREATED, kind, &created)
            }
            (&Method::DELETE, Some(_)) => {
                self.refuse_dry_run()?;
                let params = Params::parse(self.query, kind)?;
                let listing = list::list(store, kind, namespace, &params)?;
                for item in &listing.items {
                    let key = (
                        object::namespace(item).to_owned(),
                        object::name(item).to_owned(),
                    );
                    match store.remove(kind, &key, &Preconditions::default()) {
                        Err(refusal) if refusal.code != 404 => return Err(refusal),
                        _ => {}
                    }
                }
                Ok(self.many(kind, &listing, params.include_object))
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn object(
        &self,
        kind: &'static Kind,
        key: &Key,
        status: bool,
        body: &[u8],
    ) -> Result<Response<Body>, Status> {
        let store = &self.shared.store;
        let part = if status { Part::Status } else { Part::Main };
        match self.method {
            Method::GET => {
                let found = store
                    .read(kind, key)
                    .ok_or_else(|| Status::not_found(kind, &key.1))?;
                self.one(StatusCode::OK, kind, &found)
            }
            Method::PUT => {
                self.refuse_dry_run()?;
                let next = self.read(body)?;
                self.one(
                    StatusCode::OK,
                    kind,
                    &*store.update(kind, key, part, |_| Ok(next))?,
                )
            }
            Method::PATCH => {
                self.refuse_dry_run()?;
                let media_type = self.media_type();
                let patched = store.update(kind, key, part, |current| {
                    patch::apply(media_type, current, body)
                })?;
                self.one(StatusCode::OK, kind, &patched)
            }
            Method::DELETE if !status => {
                self.refuse_dry_run()?;
                let removed = store.remove(kind, key, &self.preconditions(body)?)?;
                Ok(json_response(
                    StatusCode::OK,
                    &respond::deleted(kind, &removed),
                ))
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn watch(
        &self,
        kind: &'static Kind,
        namespace: Option<String>,
        params: Params,
    ) -> Result<Response<Body>, Status> {
        let body = watch::body(self.shared, kind, namespace, params, self.form())?;
        let mut response = json_response(StatusCode::OK, &Value::Null);
        *response.body_mut() = body;
        Ok(response)
    }

    fn one(&self, code: StatusCode, kind: &Kind, found: &Value) -> Result<Response<Body>, Status> {
        let include = Params::parse(self.query, kind)?.include_object;
        Ok(json_response(
            code,
            &respond::one(self.form(), include, kind, found),
        ))
    }

    fn many(&self, kind: &Kind, listing: &Listing, include: IncludeObject) -> Response<Body> {
        json_response(
            StatusCode::OK,
            &respond::list(self.form(), include, kind, listing),
        )
    }

    fn form(&self) -> Form {
        let accept: Vec<&str> = self
            .headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        negotiate::form(&accept.join(","))
    }

    fn media_type(&self) -> &str {
        let given = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        given
            .and_then(|v| v.split(';').next())
            .unwrap_or_default()
            .trim()
    }

    fn read(&self, body: &[u8]) -> Result<Value, Status> {
        let unreadable = |why: String| {
            Status::bad_request(format!("the object provided is unrecognized: {why}"))
        };
        match self.media_type() {
            "" | "application/json" | "*/*" => {
                serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))
            }
            "application/yaml" => {
                serde_yaml_ng::from_slice(body).map_err(|e| unreadable(e.to_string()))
            }
            other => Err(Status::unsupported_media_type(
                other,
                "application/json, application/yaml",
            )),
        }
    }

    fn preconditions(&self, body: &[u8]) -> Result<Preconditions, Status> {
        if body.is_empty() {
            return Ok(Preconditions::default());
        }
        let options = self.read(body)?;
        let text = |pointer| match object::text(&options, pointer) {
            "" => None,
            given => Some(given.to_owned()),
        };
        if options.get("dryRun").is_some_and(|d| d != &json!([])) {
            return Err(no_dry_run());
        }
        Ok(Preconditions {
            uid: text("/preconditions/uid"),
            version: text("/preconditions/resourceVersion"),
        })
    }

    fn refuse_dry_run(&self) -> Result<(), Status> {
        match form_urlencoded::parse(self.query.as_bytes()).any(|(key, _)| key == "dryRun") {
            true => Err(no_dry_run()),
            false => Ok(()),
        }
    }
}

fn no_dry_run() -> Status {
    Status::bad_request("dryRun is not served here: use --dry-run=client")
}
