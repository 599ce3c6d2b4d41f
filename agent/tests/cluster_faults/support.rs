//! A cluster that is watched, with what the watching says and counts.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nodescope::cluster::{self, Cluster, Config, Kubeconfig, Patience};
use nodescope_tests::apiserver::ApiServer;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tracing::subscriber::DefaultGuard;

pub const TOKEN: &str = "secret";

/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(40);

pub fn pod(number: usize) -> Value {
    let ip = format!("10.244.0.{}", number + 2);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": "default"},
        "spec": {"nodeName": "node-0", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
    })
}

pub fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"},
        "spec": {"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.224.0.4"}]}
    })
}

/// A server with a node and two pods.
pub fn server() -> Result<ApiServer> {
    let server = ApiServer::start("127.0.0.1:0".parse()?, TOKEN)?;
    server.load(vec![node(), pod(0), pod(1)])?;
    Ok(server)
}

/// What comes soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.with_context(|| format!("timeout: {what}"))
}

/// Waits until everything is watched: the pods of the own node, and those of the others, apart.
pub async fn watched(server: &ApiServer) -> Result<()> {
    let all = server.counters().wait_until(|now| {
        let rest = ["services", "endpointslices", "nodes"];
        now.open_watches("pods") == 2
            && now.open_watches("configmaps") == 3
            && rest.iter().all(|kind| now.open_watches(kind) == 1)
    });
    soon("all watches", all).await?;
    Ok(())
}

/// Lists and watches of a kind that a server was asked for.
pub fn asked(server: &ApiServer, kind: &str) -> u64 {
    let now = server.counters().now();
    now.requests("list", kind) + now.requests("watch", kind)
}

/// A cluster that is watched.
pub struct Watching {
    cluster: Cluster,
    file: NamedTempFile,
    log: Log,
    /// Of this thread, on which everything runs.
    _guard: DefaultGuard,
}

impl Watching {
    /// The cluster behind a server's URL.
    pub async fn start(server: &ApiServer, url: &str) -> Result<Self> {
        Self::with(server, url, Patience::default()).await
    }

    pub async fn with(server: &ApiServer, url: &str, patience: Patience) -> Result<Self> {
        Self::reading(&server.kubeconfig(url), patience).await
    }

    /// The cluster of a kubeconfig.
    pub async fn reading(kubeconfig: &str, patience: Patience) -> Result<Self> {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let file = NamedTempFile::new()?;
        std::fs::write(file.path(), kubeconfig)?;
        let config = Config {
            kubeconfig: Kubeconfig::Path(file.path().to_owned()),
            node_name: "node-0".to_owned(),
            patience,
            ..Config::default()
        };
        Ok(Self {
            cluster: cluster::start(&config).await?,
            file,
            log,
            _guard: guard,
        })
    }

    /// Writes another kubeconfig.
    pub fn replace(&self, kubeconfig: &str) -> Result<()> {
        Ok(std::fs::write(self.file.path(), kubeconfig)?)
    }

    /// How many pods are known.
    pub fn count(&self) -> usize {
        let inventory = self.cluster.inventory();
        let mut counts = inventory.counts();
        let pods = counts.find(|(kind, _)| *kind == "pods");
        pods.map_or(0, |(_, count)| count)
    }

    /// Waits until so many pods are known.
    pub async fn pods(&self, wanted: usize) -> Result<()> {
        let mut changes = self.cluster.subscribe();
        let found = async {
            while self.count() != wanted {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        let what = format!("{wanted} pods");
        let outcome = soon(&what, found).await;
        outcome.with_context(|| format!("{} are known; {}", self.count(), self.log()))
    }

    /// As [`Watching::pods`], after the end of a fault; prints how long it took.
    pub async fn recovers(&self, fault: &str, wanted: usize) -> Result<()> {
        let ended = Instant::now();
        self.pods(wanted).await?;
        println!("recovery: {fault}: {:.1} s", ended.elapsed().as_secs_f64());
        Ok(())
    }

    /// Failed requests for a kind.
    pub fn failures(&self, kind: &str) -> u64 {
        let errors = self.cluster.errors();
        let mut counts = errors.counts();
        let found = counts.find(|(name, _)| *name == kind);
        found.map_or(0, |(_, count)| count)
    }

    /// Waits until so many requests for a kind failed.
    pub async fn errors(&self, kind: &str, wanted: u64) -> Result<()> {
        let counted = async {
            while self.failures(kind) < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let outcome = soon(&format!("{wanted} failures"), counted).await;
        outcome.with_context(|| self.log())
    }

    /// Everything that was logged until now.
    pub fn log(&self) -> String {
        let bytes = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until something is logged; gives everything that was.
    pub async fn said(&self, words: &str) -> Result<String> {
        let said = async {
            while !self.log().contains(words) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let outcome = soon(words, said).await;
        outcome.with_context(|| self.log())?;
        Ok(self.log())
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
