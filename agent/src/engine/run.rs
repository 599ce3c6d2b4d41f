//! The loop: whatever happens first, next.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::drops::Drops;
use super::{Engine, SETTLE, Status, conntrack};
use crate::datapath;
use crate::flow::Flow;
use crate::node::NodeView;

/// How often things happen without being asked for.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Between drains of the kernel's table.
    pub drain: Duration,
    /// Between update records.
    pub flow: Duration,
}

/// A change of the interfaces is told of after so long, together with those that follow it.
const STATUS_DELAY: Duration = Duration::from_millis(50);

/// A loss is told of after so long, together with those that follow it: so often at most.
const DROPS_DELAY: Duration = Duration::from_millis(50);

/// Events taken from the ring before anything else gets its turn.
const EVENTS_AT_ONCE: usize = 1024;

/// Runs until `stop` says so, or its sender is gone; then drains and reports a last time.
///
/// # Errors
///
/// The event ring cannot be opened.
pub async fn run(
    mut engine: Engine,
    intervals: Intervals,
    mut nodes: watch::Receiver<Arc<NodeView>>,
    status: watch::Sender<Arc<Status>>,
    mut stop: watch::Receiver<bool>,
    mut emit: impl FnMut(Flow) + Send,
) -> Result<(), datapath::Error> {
    let mut events = engine.datapath().events()?;
    let mut conntrack = engine.conntrack.take();
    let mut drops = Drops::begin(engine.datapath());
    let mut drain = interval(intervals.drain);
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut flow = interval(intervals.flow);
    flow.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let view = nodes.borrow_and_update().clone();
    engine.reconcile(&view);
    status.send_replace(Arc::new(engine.status(&drops)));
    let mut open_at = None;
    let mut status_at = None;
    let mut dropped_at = None;
    loop {
        if !engine.waits_to_open() {
            open_at = None;
        } else if open_at.is_none() {
            open_at = Some(Instant::now() + SETTLE);
        }
        tokio::select! {
            // In this order, so that a flood of events delays neither the clock nor the end.
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            changed = nodes.changed() => {
                if changed.is_err() {
                    break;
                }
                let view = nodes.borrow_and_update().clone();
                engine.reconcile(&view);
                // Hooks first: a burst of pods must not wait for what is said about each.
                status_at.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
            }
            () = at(status_at) => {
                status_at = None;
                status.send_replace(Arc::new(engine.status(&drops)));
            }
            changes = conntrack::next(&mut conntrack) => engine.learn(&changes),
            () = at(open_at) => {
                open_at = None;
                engine.opened().into_iter().for_each(&mut emit);
            }
            () = at(dropped_at) => {
                dropped_at = None;
                engine.dropped(&mut drops, true).into_iter().for_each(&mut emit);
            }
            () = drops.begun(), if dropped_at.is_none() => {
                // The packets of one moment make one record.
                dropped_at = Some(Instant::now() + DROPS_DELAY);
            }
            _ = flow.tick() => {
                engine.drain();
                engine.opened().into_iter().for_each(&mut emit);
                engine.updates().into_iter().for_each(&mut emit);
                status.send_replace(Arc::new(engine.status(&drops)));
            }
            _ = drain.tick() => {
                engine.drain();
                engine.closed().into_iter().for_each(&mut emit);
                engine.dropped(&mut drops, false).into_iter().for_each(&mut emit);
                // What was refused may work now.
                let view = nodes.borrow().clone();
                engine.reconcile(&view);
                status.send_replace(Arc::new(engine.status(&drops)));
            }
            keys = events.next(EVENTS_AT_ONCE) => match keys {
                Ok(keys) => engine.poke(&keys),
                Err(error) => {
                    // The drain sees everything too, only later.
                    tracing::error!(%error, "the event ring failed");
                    break;
                }
            },
        }
    }
    engine.drain();
    engine.last().into_iter().for_each(&mut emit);
    engine
        .dropped(&mut drops, false)
        .into_iter()
        .for_each(&mut emit);
    status.send_replace(Arc::new(engine.status(&drops)));
    Ok(())
}

/// Waits until then, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
