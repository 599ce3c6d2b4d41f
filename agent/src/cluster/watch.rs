//! Watches of the API: never fatal, counted, and logged when they begin or cease to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures::StreamExt;
use kube::Client;
use kube::runtime::watcher::{self, InitialListStrategy};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::client::client;
use super::config::{Config, Error};
use super::failure::failure;
use super::inventory::Inventory;
use super::pace::Pace;
use super::pauses::Pauses;
use super::peers::Agents;
use super::sources::{Source, Updates, sources};
use super::spread::Spread;
use super::table::Change;
use super::tables::{Tables, Update};
use crate::datapath;

/// The kinds watched, as metrics and counts name them.
pub const KINDS: [&str; 5] = ["pods", "services", "endpointslices", "nodes", "configmaps"];

/// A server that has begun a list as a stream and is silent for so long does not know of such, and
/// waits for changes: Kubernetes before 1.19. Others refuse, or tell one object after the other.
const SILENCE: Duration = Duration::from_secs(5);
/// At least this long between two inventories: 20 a second at most.
const GATHER: Duration = Duration::from_millis(50);
/// And so many times as long as building one took, so that the changes of a large cluster never cost
/// more than 1/100 of a core there. What is urgent does not wait for that.
const REST: u32 = 100;
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
    let client = client(config).await?;
    let namespace = client
        .as_ref()
        .map_or("", |client| client.default_namespace());
    let mut tables = Tables::new(config.overrides.clone())
        .within(namespace)
        .on(&config.node_name, config.scope);
    let first = tables.build();
    let inventory = Arc::new(ArcSwap::new(first.clone()));
    let (told, changes) = watch::channel(first);
    let (peers, agents) = watch::channel(Arc::default());
    let errors = Arc::new(WatchErrors::default());
    let mut tasks = JoinSet::new();
    if let Some(client) = client {
        let (sender, receiver) = mpsc::channel(256);
        let spread = Arc::new(Spread::default());
        for source in sources(&client, config) {
            let follower = Follower {
                source,
                client: client.clone(),
                spread: spread.clone(),
                updates: sender.clone(),
                errors: errors.clone(),
            };
            tasks.spawn(follower.follow());
        }
        tasks.spawn(keep(
            tables,
            receiver,
            inventory.clone(),
            told,
            peers,
            spread,
        ));
    }
    Ok(Cluster {
        inventory,
        changes,
        agents,
        errors,
        _tasks: tasks,
    })
}

/// Where a list is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    /// Asked for.
    Asked,
    /// On its way.
    Begun,
    /// Complete: what comes is changes.
    Complete,
}

/// What follows one kind for ever.
struct Follower {
    source: Source,
    client: Client,
    spread: Arc<Spread>,
    updates: mpsc::Sender<Update>,
    errors: Arc<WatchErrors>,
}

impl Follower {
    async fn follow(self) {
        let (kind, name) = (self.source.kind, KINDS[self.source.kind]);
        let mut pauses = Pauses::new();
        // What was said of the failure that is not over.
        let mut said: Option<String> = None;
        // Whether the server gives lists as streams, as far as known, and this one is one.
        let (mut streams, mut streaming) = (true, true);
        let mut list = List::Asked;
        let mut pace = Pace::new(Instant::now());
        if self.source.is_wide {
            tokio::time::sleep(self.spread.first(&self.client).await).await;
        }
        let mut stream = self.begin(streaming);
        loop {
            let next = stream.next();
            let result = if streaming && list == List::Begun {
                let Ok(result) = timeout(SILENCE, next).await else {
                    (streaming, list) = (false, List::Asked);
                    stream = self.begin(streaming);
                    continue;
                };
                result
            } else {
                next.await
            };
            match result {
                None => return,
                Some(Ok(update)) => {
                    let told = told(&update);
                    list = told.unwrap_or(list);
                    // Of a list in pages the beginning is said before anything is asked: no sign
                    // of health.
                    if told != Some(List::Begun) && said.take().is_some() {
                        tracing::info!(kind = name, "the API answers again");
                    }
                    if self.updates.send(update).await.is_err() {
                        return;
                    }
                    // What is the own node's is wanted at once, and lists have no end otherwise.
                    if self.source.is_wide
                        && list == List::Complete
                        && let Some(rest) = pace.rest(Instant::now())
                    {
                        tokio::time::sleep(rest).await;
                    }
                }
                Some(Err(error)) if streaming && list == List::Asked && is_refused(&error) => {
                    tracing::debug!(kind = name, "no streaming lists: listing in pages");
                    (streams, streaming) = (false, false);
                    stream = self.begin(streaming);
                }
                Some(Err(error)) => {
                    if list == List::Begun {
                        list = List::Asked;
                    }
                    self.errors.0[kind].fetch_add(1, Ordering::Relaxed);
                    let why = failure(&error);
                    if !said.as_deref().is_some_and(|said| is_same(said, &why)) {
                        tracing::warn!(
                            kind = name,
                            error = why,
                            "cannot watch, names stay as last known; trying on"
                        );
                        said = Some(why);
                    }
                    tokio::time::sleep(pauses.after(&error, Instant::now())).await;
                    // A watch refused with 410 would be asked for again from the same version.
                    if is_expired(&error) {
                        if self.source.is_wide {
                            tokio::time::sleep(self.spread.again()).await;
                        }
                        (streaming, list) = (streams, List::Asked);
                        stream = self.begin(streaming);
                    }
                }
            }
        }
    }

    fn begin(&self, streaming: bool) -> Updates {
        (self.source.begin)(if streaming {
            InitialListStrategy::StreamingList
        } else {
            InitialListStrategy::ListWatch
        })
    }
}

/// Whether two failures differ in numbers alone: counters, times, ports.
fn is_same(one: &str, other: &str) -> bool {
    let words = |text: &str| text.replace(|letter: char| letter.is_ascii_digit(), "");
    words(one) == words(other)
}

/// Where a list is after an update that says so.
fn told(update: &Update) -> Option<List> {
    fn of<T>(change: &Change<T>) -> Option<List> {
        match change {
            Change::Begin => Some(List::Begun),
            Change::Complete => Some(List::Complete),
            Change::Listed(_) | Change::Applied(_) | Change::Deleted(_) => None,
        }
    }
    match update {
        Update::Pod(change) | Update::Peer(change) => of(change),
        Update::Service(change) => of(change),
        Update::Slice(change) => of(change),
        Update::Node(change) => of(change),
        Update::Masquerade(_, change) => of(change),
    }
}

/// 410: what was known of the list is of no use any more.
fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        watcher::Error::WatchError(status) => status.code == 410,
        _ => false,
    }
}

/// Whether a server answers like this that gives no lists as streams: to one before 1.27, or with
/// the feature `WatchList` switched off, the request is invalid.
fn is_refused(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 400 | 422)
    )
}

/// Owns the tables: takes changes in, and publishes inventories no faster than it should.
async fn keep(
    mut tables: Tables,
    mut updates: mpsc::Receiver<Update>,
    inventory: Arc<ArcSwap<Inventory>>,
    told: watch::Sender<Arc<Inventory>>,
    peers: watch::Sender<Arc<Agents>>,
    spread: Arc<Spread>,
) {
    let mut expire = tokio::time::interval(EXPIRE);
    // The next inventory if there is something urgent, and if not.
    let mut next_build = (Instant::now(), Instant::now());
    let mut batch = Vec::new();
    loop {
        let changed = tables.is_changed();
        let due = if tables.is_urgent() {
            next_build.0
        } else {
            next_build.1
        };
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
            () = tokio::time::sleep_until(due), if changed => {
                let started = Instant::now();
                let new = tables.build();
                if new.is_complete() {
                    spread.set_pods(tables.pods() as u64);
                    if !inventory.load().is_complete() {
                        // What the first lists needed is needed no more.
                        datapath::give_back();
                    }
                }
                inventory.store(new.clone());
                told.send_replace(new);
                peers.send_if_modified(|known| {
                    let changed = !Arc::ptr_eq(known, tables.agents());
                    known.clone_from(tables.agents());
                    changed
                });
                let now = Instant::now();
                let soon = now + GATHER;
                next_build = (soon, soon.max(now + (now - started) * REST));
            }
        }
    }
}
