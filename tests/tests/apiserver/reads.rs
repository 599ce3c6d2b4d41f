//! Lists, chunks, selectors, watches and bookmarks, as kube-rs asks for them.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::ResourceExt;
use serde_json::json;

use crate::support::{TOKEN, client, client_with, cluster, code, soon};

fn names<K: ResourceExt>(objects: &[K]) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn selects_and_chunks() {
    let server = cluster();
    let client = client(&server).await;
    let pods: Api<Pod> = Api::all(client.clone());
    let all = pods.list(&ListParams::default()).await.unwrap();
    assert_eq!(names(&all.items), ["web-1", "web-2", "coredns"]);
    assert!(all.metadata.resource_version.is_some());

    let here = ListParams::default().fields("spec.nodeName=node-1");
    assert_eq!(
        names(&pods.list(&here).await.unwrap().items),
        ["web-1", "coredns"]
    );
    let web = ListParams::default()
        .labels("app in (web, db)")
        .fields("metadata.name!=web-1");
    assert_eq!(names(&pods.list(&web).await.unwrap().items), ["web-2"]);
    let dns: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    assert_eq!(
        names(&dns.list(&ListParams::default()).await.unwrap().items),
        ["coredns"]
    );

    let first = pods.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(1));
    server
        .store()
        .delete("pods", "kube-system", "coredns")
        .unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = pods
        .list(&ListParams::default().limit(2).continue_token(&token))
        .await
        .unwrap();
    assert_eq!(
        names(&rest.items),
        ["coredns"],
        "the rest shows the first chunk's version"
    );
    assert_eq!(
        rest.metadata.resource_version,
        first.metadata.resource_version
    );

    let metadata = pods.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(names(&metadata.items), ["web-1", "web-2"]);
    let deployments: Api<Deployment> = Api::all(client);
    assert!(
        deployments
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert_eq!(server.counters().now().requests("list", "pods"), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_follows_its_selection() {
    let server = cluster();
    let pods: Api<Pod> = Api::default_namespaced(client(&server).await);
    let from = server.store().version().to_string();
    let params = WatchParams::default().labels("app=web");
    let mut events = pods.watch(&params, &from).await.unwrap().boxed();
    let pod = |app: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": "late", "labels": {"app": app}}})
    };
    for app in ["db", "web", "db"] {
        server.store().apply(pod(app)).unwrap();
    }
    let mut coredns = pod("web");
    coredns["metadata"]["namespace"] = json!("kube-system");
    server.store().apply(coredns).unwrap();
    server.store().apply(pod("web")).unwrap();
    server.store().delete("pods", "default", "late").unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let event = soon("an event", events.try_next()).await.unwrap().unwrap();
        seen.push(match event {
            WatchEvent::Added(pod) => format!("added {}", pod.name_any()),
            WatchEvent::Deleted(pod) => format!("deleted {}", pod.name_any()),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(
        seen,
        ["added late", "deleted late", "added late", "deleted late"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bookmarks_and_timeouts() {
    let server = cluster();
    server.set_bookmark_interval(Duration::from_millis(20));
    let nodes: Api<Node> = Api::all(client(&server).await);
    let mut events = nodes
        .watch(&WatchParams::default().timeout(1), "0")
        .await
        .unwrap()
        .boxed();
    let first = soon("the node", events.try_next()).await.unwrap().unwrap();
    assert!(matches!(first, WatchEvent::Added(node) if node.name_any() == "node-1"));
    // A change of another kind moves the bookmark on, as in a real cluster.
    server.store().delete("pods", "default", "web-2").unwrap();
    let newest = server.store().version().to_string();
    loop {
        match soon("a bookmark", events.try_next())
            .await
            .unwrap()
            .unwrap()
        {
            WatchEvent::Bookmark(mark) if mark.metadata.resource_version == newest => break,
            WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
    soon("the end of the watch", async {
        while events.try_next().await.unwrap().is_some() {}
    })
    .await;
    soon(
        "no watch open",
        server
            .counters()
            .wait_until(|c| c.open_watches("nodes") == 0),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_with_the_token() {
    let server = cluster();
    for url in [server.url(), server.plain_url()] {
        let good = server.kubeconfig(&url);
        let pods: Api<Pod> = Api::all(client_with(&good).await);
        assert_eq!(
            pods.list(&ListParams::default()).await.unwrap().items.len(),
            3
        );
        let bad = client_with(&good.replace(TOKEN, "other")).await;
        assert_eq!(
            code(
                Api::<Pod>::all(bad.clone())
                    .list(&ListParams::default())
                    .await
            ),
            401
        );
        assert_eq!(
            bad.apiserver_version().await.unwrap().minor,
            "32",
            "the version is public"
        );
    }
    assert_eq!(server.counters().now().unauthorized(), 2);
    let pods: Api<Pod> = Api::all(client(&server).await);
    server.auth().set_token("rotated");
    assert_eq!(code(pods.list(&ListParams::default()).await), 401);
}
