//! Watches of the API: never fatal, counted, and logged when they begin or cease to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use backon::BackoffBuilder;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::{Config, Error, reason};
use super::inventory::Inventory;
use super::masquerade::{self, CONFIG_MAPS};
use super::peers::Agents;
use super::tables::{Change, Tables, Update};
use super::trim;

/// The kinds watched, as metrics and counts name them.
pub const KINDS: [&str; 5] = ["pods", "services", "endpointslices", "nodes", "configmaps"];

/// Objects asked for at once (the API's own clients use the same).
const PAGE: u32 = 500;
/// Pauses after a failed attempt: the first, and the longest. Jitter adds up to as much again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// After so long without a failure the pauses begin short again.
const CALM: Duration = Duration::from_secs(30);
/// At least this long between two inventories: 20 a second at most.
const GATHER: Duration = Duration::from_millis(50);
/// And so many times as long as building one took, so that building never costs more than 1/20
/// of a core.
const REST: u32 = 20;
/// How often gone pods are looked for.
const EXPIRE: Duration = Duration::from_secs(10);

/// Failed list and watch requests by kind (`nodescope_kube_watch_errors_total`).
#[derive(Debug, Default)]
pub struct WatchErrors([AtomicU64; KINDS.len()]);

impl WatchErrors {
    /// Kind and failures since the start.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        KINDS
            .into_iter()
            .zip(&self.0)
            .map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
    }
}

/// The cluster, live, for as long as this value lives.
#[derive(Debug)]
pub struct Cluster {
    inventory: Arc<ArcSwap<Inventory>>,
    changes: watch::Receiver<Arc<Inventory>>,
    agents: watch::Receiver<Arc<Agents>>,
    errors: Arc<WatchErrors>,
    /// Aborted on drop.
    _tasks: JoinSet<()>,
}

impl Cluster {
    /// The newest inventory; empty until the API has answered.
    pub fn inventory(&self) -> Arc<Inventory> {
        self.inventory.load_full()
    }

    /// Where the newest inventory always is, for readers that live longer.
    pub fn shared(&self) -> Arc<ArcSwap<Inventory>> {
        self.inventory.clone()
    }

    /// A receiver that is told of each new inventory.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Inventory>> {
        self.changes.clone()
    }

    /// The agents of the own DaemonSet, this one's pod included; told when one comes, goes or
    /// moves. Without the API there are none, and the sender is gone.
    pub fn agents(&self) -> watch::Receiver<Arc<Agents>> {
        self.agents.clone()
    }

    /// Counters of failed requests.
    pub fn errors(&self) -> Arc<WatchErrors> {
        self.errors.clone()
    }
}

/// Starts to watch; returns before the API has answered anything.
///
/// # Errors
/// Only for what the configuration has to mend: a kubeconfig that is not one, or no service
/// account. An API that does not answer is no error.
pub async fn start(config: &Config) -> Result<Cluster, Error> {
    let client = config.client().await?;
    let namespace = client
        .as_ref()
        .map_or("", |client| client.default_namespace());
    let mut tables = Tables::new(config.overrides.clone()).within(namespace);
    let first = tables.build();
    let inventory = Arc::new(ArcSwap::new(first.clone()));
    let (told, changes) = watch::channel(first);
    let (peers, agents) = watch::channel(Arc::default());
    let errors = Arc::new(WatchErrors::default());
    let mut tasks = JoinSet::new();
    if let Some(client) = client {
        let (sender, receiver) = mpsc::channel(4096);
        for (kind, begin) in watches(&client) {
            tasks.spawn(follow(kind, begin, sender.clone(), errors.clone()));
        }
        tasks.spawn(keep(tables, receiver, inventory.clone(), told, peers));
    }
    Ok(Cluster {
        inventory,
        changes,
        agents,
        errors,
        _tasks: tasks,
    })
}

type Updates = futures::stream::BoxStream<'static, watcher::Result<Update>>;
/// Begins a watch anew, with a full list.
type Watch = Box<dyn Fn() -> Updates + Send + Sync>;

/// Each with its place in [`KINDS`].
fn watches(client: &Client) -> Vec<(usize, Watch)> {
    let pods: Api<Pod> = Api::all(client.clone());
    let services: Api<Service> = Api::all(client.clone());
    let slices: Api<EndpointSlice> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client.clone());
    let mut watches: Vec<(usize, Watch)> = vec![
        (
            0,
            Box::new(move || stream(&pods, None, trim::pod, Update::Pod)),
        ),
        (
            1,
            Box::new(move || stream(&services, None, trim::service, Update::Service)),
        ),
        (
            2,
            Box::new(move || stream(&slices, None, trim::slice, Update::Slice)),
        ),
        (
            3,
            Box::new(move || stream(&nodes, None, trim::node, Update::Node)),
        ),
    ];
    // By name: nothing else of the namespace has to be read, nor be allowed to be.
    for (which, name) in CONFIG_MAPS.into_iter().enumerate() {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), masquerade::NAMESPACE);
        let update = move |change| Update::Masquerade(which, change);
        watches.push((
            4,
            Box::new(move || stream(&maps, Some(name), trim::masquerade, update)),
        ));
    }
    watches
}

fn stream<K, T>(
    api: &Api<K>,
    name: Option<&str>,
    trim: fn(K) -> T,
    update: impl Fn(Change<T>) -> Update + Send + 'static,
) -> Updates
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    T: 'static,
{
    let mut config = watcher::Config::default().page_size(PAGE);
    if let Some(name) = name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    watcher(api.clone(), config)
        .map(move |event| {
            event.map(|event| {
                update(match event {
                    Event::Init => Change::Begin,
                    Event::InitApply(object) => Change::Listed(trim(object)),
                    Event::InitDone => Change::Complete,
                    Event::Apply(object) => Change::Applied(trim(object)),
                    Event::Delete(object) => Change::Deleted(trim(object)),
                })
            })
        })
        .boxed()
}

/// Follows one kind for ever.
async fn follow(
    kind: usize,
    begin: Watch,
    updates: mpsc::Sender<Update>,
    errors: Arc<WatchErrors>,
) {
    let name = KINDS[kind];
    let pauses = backon::ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_jitter()
        .without_max_times();
    let mut pause = pauses.build();
    let mut failed_at: Option<Instant> = None;
    let mut failing = false;
    let mut stream = begin();
    while let Some(result) = stream.next().await {
        match result {
            // Said before anything is asked: no sign of health.
            Ok(update) if is_begin(&update) => {
                if updates.send(update).await.is_err() {
                    return;
                }
            }
            Ok(update) => {
                if failing {
                    failing = false;
                    tracing::info!(kind = name, "the API answers again");
                }
                if updates.send(update).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                errors.0[kind].fetch_add(1, Ordering::Relaxed);
                if !failing {
                    failing = true;
                    let error = reason(&error);
                    tracing::warn!(
                        kind = name,
                        error,
                        "cannot watch, names stay as last known; trying on"
                    );
                }
                if failed_at.is_some_and(|at| at + CALM < Instant::now()) {
                    pause = pauses.build();
                }
                failed_at = Some(Instant::now());
                tokio::time::sleep(pause.next().unwrap_or(PAUSES.1)).await;
                // A watch refused with 410 would be asked for again from the same version.
                if is_expired(&error) {
                    stream = begin();
                }
            }
        }
    }
}

fn is_begin(update: &Update) -> bool {
    matches!(
        update,
        Update::Pod(Change::Begin)
            | Update::Service(Change::Begin)
            | Update::Slice(Change::Begin)
            | Update::Node(Change::Begin)
            | Update::Masquerade(_, Change::Begin)
    )
}

fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// Owns the tables: takes changes in, and publishes inventories no faster than it should.
async fn keep(
    mut tables: Tables,
    mut updates: mpsc::Receiver<Update>,
    inventory: Arc<ArcSwap<Inventory>>,
    told: watch::Sender<Arc<Inventory>>,
    peers: watch::Sender<Arc<Agents>>,
) {
    let mut expire = tokio::time::interval(EXPIRE);
    let mut next_build = Instant::now();
    let mut batch = Vec::new();
    loop {
        let changed = tables.is_changed();
        tokio::select! {
            count = updates.recv_many(&mut batch, 1024) => {
                if count == 0 {
                    return;
                }
                let now = SystemTime::now();
                for update in batch.drain(..) {
                    tables.apply(update, now);
                }
            }
            _ = expire.tick() => tables.expire(SystemTime::now()),
            () = tokio::time::sleep_until(next_build), if changed => {
                let started = Instant::now();
                let new = tables.build();
                inventory.store(new.clone());
                told.send_replace(new);
                peers.send_if_modified(|known| {
                    let changed = !Arc::ptr_eq(known, tables.agents());
                    known.clone_from(tables.agents());
                    changed
                });
                let now = Instant::now();
                next_build = now + GATHER.max((now - started) * REST);
            }
        }
    }
}
