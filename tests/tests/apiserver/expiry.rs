//! Reflectors over changes, broken watches and expired versions.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::core::ResourceExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, api::ListParams};
use nodescope_tests::apiserver::ApiServer;
use serde_json::json;
use tokio::sync::watch;

use crate::support::{client, cluster, code, soon};

/// A running reflector, and the errors that its watcher met.
struct Reflected {
    store: Store<Pod>,
    errors: watch::Receiver<Vec<String>>,
    events: watch::Receiver<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Reflected {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reflected {
    async fn start(server: &ApiServer, config: watcher::Config) -> Self {
        let pods: Api<Pod> = Api::all(client(server).await);
        let (store, writer) = reflector::store();
        let (failed, errors) = watch::channel(Vec::new());
        let (moved, events) = watch::channel(0);
        let stream = reflector::reflector(writer, watcher(pods, config)).default_backoff();
        let task = tokio::spawn(stream.for_each(move |event| {
            if let Err(e) = event {
                failed.send_modify(|all: &mut Vec<String>| all.push(e.to_string()));
            }
            moved.send_modify(|n| *n += 1);
            std::future::ready(())
        }));
        soon("the first list", store.wait_until_ready())
            .await
            .unwrap();
        Self {
            store,
            errors,
            events,
            task,
        }
    }

    /// Waits until the reflector holds what a condition asks for.
    async fn holds(&mut self, what: &str, condition: impl Fn(&Store<Pod>) -> bool) {
        let store = self.store.clone();
        soon(what, self.events.wait_for(|_| condition(&store)))
            .await
            .unwrap();
    }

    fn get(store: &Store<Pod>, name: &str) -> Option<Arc<Pod>> {
        store.get(&ObjectRef::new(name).within("default"))
    }
}

fn pod(name: &str, ip: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
           "spec": {"containers": []}, "status": {"podIP": ip}})
}

async fn follows_and_recovers(config: watcher::Config, streaming: bool) {
    let server = cluster();
    let mut reflected = Reflected::start(&server, config).await;
    assert_eq!(reflected.store.len(), 3);
    soon(
        "a watch",
        server
            .counters()
            .wait_until(|c| c.open_watches("pods") == 1),
    )
    .await;
    server.store().apply(pod("new", "10.244.0.9")).unwrap();
    reflected
        .holds("the new pod", |s| Reflected::get(s, "new").is_some())
        .await;
    assert_eq!(
        server.counters().now().requests("list", "pods"),
        if streaming { 0 } else { 2 }
    );

    // A broken watch goes on where it was.
    server.faults().drop_watches();
    server.store().apply(pod("new", "10.244.0.10")).unwrap();
    let has_ip = |s: &Store<Pod>, ip: &str| {
        let pod = Reflected::get(s, "new");
        pod.and_then(|p| p.status.clone()?.pod_ip).as_deref() == Some(ip)
    };
    reflected
        .holds("the new address", |s| has_ip(s, "10.244.0.10"))
        .await;

    // Away, and the history compacted meanwhile: the client must list again, and so see the
    // deletion that it was never told of.
    let gone = |errors: &Vec<String>| {
        errors
            .iter()
            .any(|e| e.contains("too old resource version"))
    };
    assert!(!gone(&reflected.errors.borrow()));
    server.refuse_connections(true).unwrap();
    soon(
        "no watch",
        server
            .counters()
            .wait_until(|c| c.open_watches("pods") == 0),
    )
    .await;
    server.store().delete("pods", "default", "web-1").unwrap();
    server.store().apply(pod("newest", "10.244.0.11")).unwrap();
    server.compact();
    server.refuse_connections(false).unwrap();
    reflected
        .holds("the newest pod", |s| Reflected::get(s, "newest").is_some())
        .await;
    reflected
        .holds("no web-1", |s| Reflected::get(s, "web-1").is_none())
        .await;
    assert!(
        gone(&reflected.errors.borrow()),
        "{:?}",
        reflected.errors.borrow()
    );

    // An open watch may be told the same.
    soon(
        "a watch",
        server
            .counters()
            .wait_until(|c| c.open_watches("pods") == 1),
    )
    .await;
    server.faults().expire_watches();
    let expired = |e: &Vec<String>| {
        e.iter()
            .any(|e| e.contains("The resourceVersion is too old"))
    };
    soon("the expiry", reflected.errors.wait_for(expired))
        .await
        .unwrap();
    server.store().delete("pods", "default", "newest").unwrap();
    reflected
        .holds("no newest", |s| Reflected::get(s, "newest").is_none())
        .await;
    assert_eq!(reflected.store.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_follows_and_recovers() {
    follows_and_recovers(watcher::Config::default().page_size(2), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_reflector_follows_and_recovers() {
    follows_and_recovers(watcher::Config::default().streaming_lists(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_chunk_is_410() {
    let server = cluster();
    let pods: Api<Pod> = Api::all(client(&server).await);
    let first = pods.list(&ListParams::default().limit(1)).await.unwrap();
    server.store().delete("pods", "default", "web-1").unwrap();
    server.compact();
    let next = ListParams::default()
        .limit(1)
        .continue_token(&first.metadata.continue_.unwrap());
    match pods.list(&next).await {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
        }
        other => panic!("{other:?}"),
    }
    let exact = ListParams::default()
        .at(&first.metadata.resource_version.unwrap())
        .matching(kube::api::VersionMatch::Exact);
    assert_eq!(code(pods.list(&exact).await), 410);
    assert_eq!(
        pods.list(&ListParams::default()).await.unwrap().items[0].name_any(),
        "web-2"
    );
}
