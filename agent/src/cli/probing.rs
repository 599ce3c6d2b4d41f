//! The agent's part in health probes: which payload to ask the kernel side for, what came of it,
//! and what the metrics hear.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::{Inventory, Local};
use crate::datapath::{Heads, ProbePorts};
use crate::flow::Moment;
use crate::insight::here::Here;
use crate::insight::probes::{self, Probes};
use crate::node::NodeView;
use crate::sink::prometheus::Metrics;

/// How often time and the API are looked at: a probe's end shows so late at most, and a new
/// pod's probes are read from then on.
const TICK: Duration = Duration::from_millis(200);

/// Heads taken from the ring at once.
const HEADS_AT_ONCE: usize = 256;

/// What the probes are fed from.
pub(super) struct Feed {
    pub(super) node: String,
    pub(super) nodes: watch::Receiver<Arc<NodeView>>,
    pub(super) inventory: Arc<ArcSwap<Inventory>>,
    pub(super) sources: Vec<IpAddr>,
    pub(super) heads: Heads,
    pub(super) ports: ProbePorts,
    pub(super) here: Here,
    pub(super) metrics: Arc<Metrics>,
}

/// Feeds the probes until the ring fails, or the task is dropped.
pub(super) async fn feed(probes: Probes, mut feed: Feed) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut local = Local::new(&feed.node, &feed.nodes.borrow_and_update());
    let mut known: Option<Arc<Inventory>> = None;
    loop {
        tokio::select! {
            heads = feed.heads.next(HEADS_AT_ONCE) => match heads {
                Ok(heads) => {
                    probes.heads(&heads);
                    feed.here.heads(&heads);
                }
                Err(error) => {
                    tracing::error!(%error, "the payload ring failed: no answers are read");
                    return;
                }
            },
            _ = tick.tick() => {
                let moved = feed.nodes.has_changed().unwrap_or(false);
                if moved {
                    local = Local::new(&feed.node, &feed.nodes.borrow_and_update());
                }
                let inventory = feed.inventory.load_full();
                let same = known.as_ref().is_some_and(|known| known.is_probed_alike(&inventory));
                if same && !moved {
                    probes.tick(None, Moment::now());
                } else {
                    feed.ports.set(probes::ends(&inventory, &local, &feed.sources));
                    probes.tick(Some((&inventory, &local)), Moment::now());
                    known = Some(inventory);
                }
                feed.metrics.observe_probes(&probes.ended(), &probes.local_endpoints());
            }
        }
    }
}
