//! The loop: whatever happens first, next.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::drops::Drops;
use super::{Engine, SETTLE, Status, conntrack};
use crate::datapath::{self, Told};
use crate::flow::Flow;
use crate::node::NodeView;
use crate::node::conntrack::Change;

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

/// Events taken from the ring before anything else gets its turn. So many at once are a flood:
/// then the table is read as a whole, soon, rather than record by record.
const EVENTS_AT_ONCE: usize = 1024;
const SOON: Duration = Duration::from_millis(100);

/// Flow records made before anything else gets its turn.
const RECORDS_AT_ONCE: usize = 256;

/// How long to wait for room in the sinks before looking again.
const ROOM: Duration = Duration::from_millis(2);

/// How long the sinks get for the records that are left at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Where flow records go.
pub trait Outlet: Send {
    /// Takes a record.
    fn emit(&mut self, flow: Flow);

    /// How many more it takes now without losing any.
    fn room(&self) -> usize;

    /// Some records were handed out; more may come later.
    fn flush(&mut self) {}
}

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
    mut outlet: impl Outlet,
) -> Result<(), datapath::Error> {
    let mut events = engine.datapath().events()?;
    let mut conntrack = engine.conntrack.take();
    let mut drops = Drops::begin(engine.datapath());
    let mut drain = interval(intervals.drain);
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut flow = interval(intervals.flow);
    flow.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let view = nodes.borrow_and_update().clone();
    engine.resume();
    while engine.reconcile(&view) {}
    engine.settle_in(&view);
    status.send_replace(Arc::new(engine.status(&drops)));
    let mut open_at = None;
    let mut status_at = None;
    let mut hooks_at = None;
    let mut dropped_at = None;
    let mut soon_at = None;
    let mut say_at: Option<Instant> = None;
    // Records and events take turns.
    let mut records_first = false;
    loop {
        if !engine.waits_to_open() {
            open_at = None;
        } else if open_at.is_none() {
            open_at = Some(Instant::now() + SETTLE);
        }
        if !engine.has_news() {
            say_at = None;
        } else if say_at.is_none() {
            say_at = Some(Instant::now());
        }
        if engine.has_room_for_waiting() {
            soon_at.get_or_insert_with(Instant::now);
        }
        records_first = !records_first;
        let turn = tokio::select! {
            // In this order, so that a flood of events delays neither the clock nor the end.
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            changed = nodes.changed() => {
                if changed.is_err() {
                    break;
                }
                let view = nodes.borrow_and_update().clone();
                hooks_at = engine.reconcile(&view).then(Instant::now);
                // Hooks first: a burst of pods must not wait for what is said about each.
                status_at.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
                continue;
            }
            () = at(hooks_at), if records_first => Turn::Hooks,
            () = at(status_at) => Turn::Status,
            changes = conntrack::next(&mut conntrack) => Turn::Learn(changes),
            () = at(open_at) => Turn::Open,
            () = at(dropped_at) => Turn::Dropped,
            () = drops.begun(), if dropped_at.is_none() => {
                // The packets of one moment make one record.
                dropped_at = Some(Instant::now() + DROPS_DELAY);
                continue;
            }
            _ = flow.tick() => Turn::Update,
            _ = drain.tick() => Turn::Drain,
            () = at(soon_at) => Turn::Pressed,
            () = at(say_at), if records_first => Turn::Say,
            told = events.next(EVENTS_AT_ONCE) => match told {
                Ok(told) => Turn::Told(told),
                Err(error) => {
                    // The drain sees everything too, only later.
                    tracing::error!(%error, "the event ring failed");
                    break;
                }
            },
            () = at(say_at) => Turn::Say,
            () = at(hooks_at) => Turn::Hooks,
        };
        match turn {
            Turn::Hooks => {
                let view = nodes.borrow().clone();
                hooks_at = engine.reconcile(&view).then(Instant::now);
                status_at.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
            }
            Turn::Status => {
                status_at = None;
                status.send_replace(Arc::new(engine.status(&drops)));
            }
            Turn::Learn(changes) => engine.learn(&changes),
            Turn::Open => {
                open_at = None;
                engine.opened();
            }
            Turn::Dropped => {
                dropped_at = None;
                for flow in engine.dropped(&mut drops, true) {
                    outlet.emit(flow);
                }
            }
            Turn::Update => {
                if !engine.is_behind() {
                    engine.drain();
                }
                engine.opened();
                engine.updates();
                status.send_replace(Arc::new(engine.status(&drops)));
            }
            Turn::Drain => {
                soon_at = None;
                let start = Instant::now();
                engine.drain();
                // What takes long is done less often: what was found is told in between.
                drain.reset_after(intervals.drain.max(start.elapsed() * 3));
                engine.closed();
                for flow in engine.dropped(&mut drops, false) {
                    outlet.emit(flow);
                }
                // What was refused may work now.
                let view = nodes.borrow().clone();
                hooks_at = engine.reconcile(&view).then(Instant::now);
                status.send_replace(Arc::new(engine.status(&drops)));
            }
            Turn::Pressed => {
                soon_at = None;
                engine.drain();
                engine.close_idlest();
            }
            Turn::Told(told) => {
                engine.told(told.iter().filter(|one| one.opened).count());
                if told.len() < EVENTS_AT_ONCE {
                    engine.poke(told.iter().map(|one| &one.key));
                } else {
                    engine.read_all_next();
                    soon_at.get_or_insert_with(|| Instant::now() + SOON);
                    if engine.is_pressed() {
                        soon_at = Some(Instant::now());
                    }
                }
            }
            Turn::Say => say_at = say(&mut engine, &mut outlet),
        }
    }
    engine.drain_all();
    engine.last();
    let deadline = Instant::now() + FAREWELL;
    while engine.has_news() {
        if let Some(then) = say(&mut engine, &mut outlet)
            && then < deadline
        {
            sleep_until(then).await;
        } else if engine.has_news() && Instant::now() >= deadline {
            // What does not fit now is counted as lost.
            engine.say(usize::MAX, |flow| outlet.emit(flow));
            outlet.flush();
        }
    }
    for flow in engine.dropped(&mut drops, false) {
        outlet.emit(flow);
    }
    status.send_replace(Arc::new(engine.status(&drops)));
    Ok(())
}

/// What the loop does next.
enum Turn {
    Hooks,
    Status,
    Learn(Vec<Change>),
    Open,
    Dropped,
    Update,
    Drain,
    Pressed,
    Told(Vec<Told>),
    Say,
}

/// Hands out what there is room for; when to try again, where there was none.
fn say(engine: &mut Engine, outlet: &mut impl Outlet) -> Option<Instant> {
    let room = if engine.overflows() {
        usize::MAX
    } else {
        // A connection that ends at once has two.
        outlet.room() / 2
    };
    engine.say(room.min(RECORDS_AT_ONCE), |flow| outlet.emit(flow));
    outlet.flush();
    (room == 0).then(|| Instant::now() + ROOM)
}

/// Waits until then, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
