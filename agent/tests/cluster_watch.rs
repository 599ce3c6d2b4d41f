//! The cluster's inventory against an API server that speaks real HTTP, well and badly.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodescope::cluster::{self, Cluster, Config, Inventory, Kubeconfig, Scope};
use nodescope_tests::apiserver::{ApiServer, Fault, StreamingLists};
use serde_json::{Value, json};

const TOKEN: &str = "secret";

fn pod(number: usize) -> Value {
    let ip = format!("10.244.{}.{}", number / 250, number % 250 + 2);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": "default"},
        "spec": {"nodeName": "node-0", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
    })
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"},
        "spec": {"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.224.0.4"}]}
    })
}

fn server() -> Result<ApiServer> {
    let server = ApiServer::start("127.0.0.1:0".parse()?, TOKEN)?;
    server.load(vec![node(), pod(0), pod(1)])?;
    Ok(server)
}

async fn watch(server: &ApiServer, url: &str) -> Result<(Cluster, tempfile::NamedTempFile)> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), server.kubeconfig(url))?;
    let config = Config {
        kubeconfig: Kubeconfig::Path(file.path().to_owned()),
        node_name: "node-0".to_owned(),
        ..Config::default()
    };
    Ok((cluster::start(&config).await?, file))
}

async fn until(
    cluster: &Cluster,
    what: &str,
    wanted: impl Fn(&Inventory) -> bool,
) -> Result<Arc<Inventory>> {
    let mut changes = cluster.subscribe();
    let found = changes.wait_for(|inventory| wanted(inventory));
    let found = tokio::time::timeout(Duration::from_secs(40), found).await;
    Ok(found.with_context(|| format!("timeout: {what}"))??.clone())
}

fn pods(inventory: &Inventory) -> usize {
    inventory
        .counts()
        .find(|(kind, _)| *kind == "pods")
        .map_or(0, |(_, count)| count)
}

fn errors(cluster: &Cluster) -> u64 {
    cluster
        .errors()
        .counts()
        .map(|(_, count)| count)
        .min()
        .unwrap_or_default()
}

async fn until_errors(cluster: &Cluster, more_than: u64) -> Result<()> {
    let counted = async {
        while errors(cluster) <= more_than {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), counted)
        .await
        .context("no error was counted")
}

/// How a server that does this gives 1,200 pods, two of another node, and their changes: requests
/// that list pods, and such that watch them.
async fn listed(streaming: StreamingLists) -> Result<(u64, u64)> {
    let server = server()?;
    server.set_streaming_lists(streaming);
    server.load((2..1200).map(pod).collect())?;
    for number in [0, 1] {
        let mut elsewhere = pod(number);
        elsewhere["spec"]["nodeName"] = json!("node-1");
        server.load(vec![elsewhere])?;
    }
    // With TLS, as in a cluster.
    let (cluster, _file) = watch(&server, &server.url()).await?;
    let all = |inventory: &Inventory| inventory.is_complete() && pods(inventory) == 1200;
    let inventory = until(&cluster, "all pods", all).await?;
    ensure!(inventory.node("node-0").is_some());
    ensure!(inventory.pods_on("node-0").count() == 1198);
    let counts = server.counters().now();

    server.store().apply(pod(1200))?;
    until(&cluster, "one more", |inventory| pods(inventory) == 1201).await?;
    server.store().delete("Pod", "default", "pod-7")?;
    until(&cluster, "one less", |inventory| pods(inventory) == 1200).await?;
    ensure!(cluster.errors().counts().all(|(_, count)| count == 0));
    Ok((
        counts.requests("list", "pods"),
        counts.requests("watch", "pods"),
    ))
}

#[tokio::test]
async fn objects_come_as_a_stream_or_in_pages_as_the_server_can() -> Result<()> {
    // One asks how many there are. One more for the watches that follow lists in pages, if they
    // are counted yet.
    let (lists, watches) = listed(StreamingLists::Served).await?;
    ensure!(
        (lists, watches) == (1, 2),
        "{lists} lists, {watches} watches"
    );
    // Pages of 500: three of the own node's pods, one of the others.
    let (lists, watches) = listed(StreamingLists::Refused).await?;
    ensure!(
        lists == 5 && (2..=4).contains(&watches),
        "{lists} lists, {watches} watches"
    );
    let (lists, watches) = listed(StreamingLists::Unknown).await?;
    ensure!(
        lists == 5 && (2..=4).contains(&watches),
        "{lists} lists, {watches} watches"
    );
    Ok(())
}

#[tokio::test]
async fn an_agent_that_watches_its_own_pods_asks_for_no_others() -> Result<()> {
    let server = server()?;
    let mut other = pod(1);
    other["spec"]["nodeName"] = json!("node-1");
    server.load(vec![other])?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), server.kubeconfig(&server.plain_url()))?;
    let config = Config {
        kubeconfig: Kubeconfig::Path(file.path().to_owned()),
        node_name: "node-0".to_owned(),
        scope: Scope::Node,
        ..Config::default()
    };
    let cluster = cluster::start(&config).await?;
    let inventory = until(&cluster, "everything", Inventory::is_complete).await?;
    ensure!(pods(&inventory) == 1, "{} pods", pods(&inventory));
    ensure!(server.counters().now().requests("watch", "pods") == 1);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_there_before_the_api() -> Result<()> {
    let server = server()?;
    server.refuse_connections(true)?;
    let (cluster, _file) = watch(&server, &server.plain_url()).await?;
    until_errors(&cluster, 0).await?;
    ensure!(!cluster.inventory().is_complete());
    server.refuse_connections(false)?;
    until(&cluster, "both pods", |inventory| pods(inventory) == 2).await?;
    Ok(())
}

#[tokio::test]
async fn an_api_that_misbehaves_is_counted_and_outlived() -> Result<()> {
    let faults = [
        Fault::Code(500),
        Fault::Code(401),
        Fault::Code(410),
        Fault::Garbage,
    ];
    futures::future::try_join_all(faults.map(outlive)).await?;
    Ok(())
}

async fn outlive(fault: Fault) -> Result<()> {
    let server = server()?;
    let (cluster, _file) = watch(&server, &server.plain_url()).await?;
    until(&cluster, "both pods", |now| {
        now.is_complete() && pods(now) == 2
    })
    .await?;
    server.faults().set(fault);
    server.faults().drop_watches();
    until_errors(&cluster, 1).await?;
    // What was known stays known.
    ensure!(pods(&cluster.inventory()) == 2, "{fault:?}");
    server.store().apply(pod(5))?;
    server.store().delete("Pod", "default", "pod-0")?;
    server.store().delete("Pod", "default", "pod-1")?;
    server.compact();
    server.faults().clear();
    until(&cluster, &format!("recovery from {fault:?}"), |now| {
        pods(now) == 1
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_watch_that_expired_begins_anew() -> Result<()> {
    let server = server()?;
    let (cluster, _file) = watch(&server, &server.plain_url()).await?;
    until(&cluster, "both pods", |now| {
        now.is_complete() && pods(now) == 2
    })
    .await?;
    server
        .counters()
        .wait_until(|counts| counts.open_watches("pods") == 2)
        .await;
    server.faults().expire_watches();
    until_errors(&cluster, 0).await?;
    server.store().delete("Pod", "default", "pod-0")?;
    until(&cluster, "the other pod", |inventory| pods(inventory) == 1).await?;
    Ok(())
}
