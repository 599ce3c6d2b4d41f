//! A client of the real API server that takes objects as JSON.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::apiserver::kinds;

/// How long the server may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Metadata that the server decides.
const DECIDED: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "generation",
];

/// The client and the runtime that it lives in.
pub struct ApiClient {
    client: Client,
    // None only while it is dropped.
    runtime: Option<Runtime>,
}

/// The server's refusal.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({code})")]
struct Refusal {
    code: u16,
    message: String,
}

/// The refusal's HTTP code, if `error` is one.
fn refused(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<Refusal>().map(|refusal| refusal.code)
}

impl ApiClient {
    /// A client with a kubeconfig's server and user.
    pub fn new(kubeconfig: &str) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lab-api-client")
            .enable_all()
            .build()
            .context("starting the API client's runtime")?;
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
        let client = on(&runtime, async {
            let options = KubeConfigOptions::default();
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            config.read_timeout = Some(ANSWER_TIMEOUT);
            Ok(Client::try_from(config)?)
        })?;
        Ok(Self {
            client,
            runtime: Some(runtime),
        })
    }

    /// GETs `path`, as text.
    pub fn text(&self, path: &str) -> Result<String> {
        let request = Request::get(path).body(Vec::new())?;
        self.block(async { Ok(self.client.request_text(request).await?) })
    }

    /// GETs `path`; none when there is nothing.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        match self.send(&Method::GET, path, JSON, None) {
            Ok(found) => Ok(Some(found)),
            Err(error) if refused(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The objects of a collection's path.
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        let mut list = self.send(&Method::GET, path, JSON, None)?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// POSTs `object` to `path`.
    pub fn post(&self, path: &str, object: &Value) -> Result<Value> {
        self.send(&Method::POST, path, JSON, Some(object))
    }

    /// Deletes what is at `path` at once, without a period of grace. Nothing there is no error.
    pub fn delete(&self, path: &str) -> Result<()> {
        let path = format!("{path}?gracePeriodSeconds=0");
        match self.send(&Method::DELETE, &path, JSON, None) {
            Err(error) if refused(&error) != Some(404) => Err(error),
            _ => Ok(()),
        }
    }

    /// Creates or replaces `object`, and its status where it has one. What the server decides
    /// (identity, times) is taken out; one that has a time of deletion begins to end.
    pub fn apply(&self, mut object: Value) -> Result<()> {
        let path = path_of(&object)?;
        let mut ending = false;
        let status = object.as_object_mut().and_then(|o| o.remove("status"));
        if let Some(metadata) = object["metadata"].as_object_mut() {
            ending = metadata.contains_key("deletionTimestamp");
            for decided in DECIDED {
                metadata.remove(decided);
            }
        }
        match self.get(&path)? {
            Some(now) => self.replace(&path, &now, object)?,
            None => {
                let (collection, _) = path.rsplit_once('/').unwrap_or_default();
                self.post(collection, &object)?;
            }
        }
        if let Some(status) = status {
            let body = json!({"status": status});
            let path = format!("{path}/status");
            self.send(&Method::PATCH, &path, MERGE_PATCH, Some(&body))?;
        }
        if ending {
            // With its period of grace, which no kubelet ends here.
            self.send(&Method::DELETE, &path, JSON, None)?;
        }
        Ok(())
    }

    /// Replaces what is there. Of a pod only the metadata: almost nothing else of it may change,
    /// and its server's defaults are not ours to know.
    fn replace(&self, path: &str, now: &Value, mut object: Value) -> Result<()> {
        match object["kind"].as_str() {
            // Namespaces hold nothing but their name.
            Some("Namespace") => {}
            Some("Pod") => {
                let body = json!({"metadata": object["metadata"]});
                self.send(&Method::PATCH, path, MERGE_PATCH, Some(&body))?;
            }
            _ => {
                object["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
                self.send(&Method::PUT, path, JSON, Some(&object))?;
            }
        }
        Ok(())
    }

    fn send(&self, method: &Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Value> {
        let bytes = body.map(serde_json::to_vec).transpose()?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("accept", JSON)
            .body(bytes.unwrap_or_default())?;
        let answer = async { self.client.request::<Value>(request).await.map_err(plainly) };
        self.block(answer)
            .with_context(|| format!("{method} {path}"))
    }

    fn block<T: Send>(&self, future: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let runtime = self.runtime.as_ref().context("the API client is gone")?;
        on(runtime, future)
    }
}

impl Drop for ApiClient {
    fn drop(&mut self) {
        // Not waited for: a lab may be dropped inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A refusal in the server's own words, which the client's error hides among everything else.
fn plainly(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!(Refusal {
            code: status.code,
            message: status.message,
        }),
        other => anyhow!(other),
    }
}

/// Runs a future to its end on a thread of its own: the caller may be inside another runtime.
fn on<T: Send>(runtime: &Runtime, future: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| runtime.block_on(future));
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the API client panicked")))
    })
}

/// The path of `object`: of its namespace when it has one.
pub fn path_of(object: &Value) -> Result<String> {
    let text = |value: &Value, what: &str| -> Result<String> {
        let text = value.as_str().map(str::to_owned);
        text.with_context(|| format!("an object without {what}: {object}"))
    };
    let version = text(&object["apiVersion"], "apiVersion")?;
    let kind = text(&object["kind"], "kind")?;
    let name = text(&object["metadata"]["name"], "name")?;
    let namespace = object["metadata"]["namespace"].as_str();
    Ok(format!("{}/{name}", collection(&version, &kind, namespace)))
}

/// The path of the objects of a kind, in one namespace or all.
pub fn collection(version: &str, kind: &str, namespace: Option<&str>) -> String {
    let (group, number) = version.split_once('/').unwrap_or(("", version));
    let plural = kinds::by_object(version, kind).map_or_else(
        || ApiResource::from_gvk(&GroupVersionKind::gvk(group, number, kind)).plural,
        |known| known.plural.to_owned(),
    );
    let root = if group.is_empty() { "api" } else { "apis" };
    match namespace {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_objects() -> Result<()> {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "nodescope"}});
        assert_eq!(
            path_of(&role)?,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/nodescope"
        );
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default"}});
        assert_eq!(path_of(&pod)?, "/api/v1/namespaces/default/pods/web");
        assert!(path_of(&json!({"kind": "Pod"})).is_err());
        Ok(())
    }
}
