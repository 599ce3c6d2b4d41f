//! The live view: multicast events applied as they come, full readings as a safety net.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt, StreamExt};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::dump::dump;
use super::error::Error;
use super::event::Event;
use super::view::NodeView;

/// Receive buffer asked for, in bytes; the kernel caps it at `net.core.rmem_max`.
const RECEIVE_BUFFER: i32 = 4 << 20;
/// Events of routes, neighbours and forwarding entries wait this long for others like them;
/// interfaces and addresses are told at once.
const GATHER: Duration = Duration::from_millis(10);
/// A full reading even when nothing seems to be wrong.
const RESYNC: Duration = Duration::from_secs(30);
/// How long after a change that the kernel may not tell in full (see `NodeView::forget`) all is
/// read anew.
const SETTLE: Duration = Duration::from_millis(100);
/// Pause before trying again what failed.
const RETRY: Duration = Duration::from_secs(1);
/// Messages taken from the queue before the view is published.
const BATCH: u64 = 4096;

/// What the watch went through, since the start.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Multicast messages read.
    pub events: AtomicU64,
    /// Full readings, the first included.
    pub resyncs: AtomicU64,
    /// Times the kernel dropped events because the socket's buffer was full (ENOBUFS).
    pub overruns: AtomicU64,
    /// Readings that failed and sockets that broke.
    pub failures: AtomicU64,
}

/// The node, live, for as long as this value lives.
#[derive(Debug)]
pub struct Watch {
    views: watch::Receiver<Arc<NodeView>>,
    statistics: Arc<Statistics>,
    /// Aborted on drop.
    _task: JoinSet<()>,
}

impl Watch {
    /// The newest view.
    pub fn view(&self) -> Arc<NodeView> {
        self.views.borrow().clone()
    }

    /// A receiver that sees the newest view and is told of each change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<NodeView>> {
        self.views.clone()
    }

    /// Counters for the agent's own metrics.
    pub fn statistics(&self) -> Arc<Statistics> {
        self.statistics.clone()
    }
}

/// Reads the node of the current network namespace and follows it from then on.
///
/// # Errors
/// When the sockets cannot be opened or the first reading fails; later failures are logged,
/// counted in [`Statistics`] and mended by reading anew.
pub async fn watch() -> Result<Watch, Error> {
    let session = Session::open()?;
    let view = dump(&session.handle).await?;
    let statistics = Arc::new(Statistics::default());
    statistics.resyncs.fetch_add(1, Ordering::Relaxed);
    let (sender, views) = watch::channel(Arc::new(view));
    let mut task = JoinSet::new();
    task.spawn(follow(session, sender, statistics.clone()));
    Ok(Watch {
        views,
        statistics,
        _task: task,
    })
}

/// Two sockets, so that answers to requests never compete with events: one that only listens,
/// one that asks.
struct Session {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    handle: Handle,
    _connections: JoinSet<()>,
}

impl Session {
    fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (mut listen, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        // Best effort: a smaller buffer only means that an overrun comes sooner.
        if let Err(error) = listen
            .socket_mut()
            .socket_mut()
            .set_rx_buf_sz(RECEIVE_BUFFER)
        {
            tracing::debug!(%error, "rtnetlink receive buffer stays at its default");
        }
        let (ask, handle, _) = rtnetlink::new_connection()?;
        let mut connections = JoinSet::new();
        connections.spawn(listen);
        connections.spawn(ask);
        Ok(Self {
            messages,
            handle,
            _connections: connections,
        })
    }
}

async fn follow(
    mut session: Session,
    sender: watch::Sender<Arc<NodeView>>,
    statistics: Arc<Statistics>,
) {
    loop {
        let live = NodeView::clone(&sender.borrow());
        Follower::new(&mut session, live, &sender, &statistics)
            .run()
            .await;
        if sender.is_closed() {
            return;
        }
        statistics.failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("rtnetlink socket closed, opening it anew");
        session = loop {
            tokio::time::sleep(RETRY).await;
            match Session::open() {
                Ok(session) => break session,
                Err(error) => tracing::warn!(%error, "node view is not live, trying again"),
            }
        };
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<NodeView, Error>> + Send>>;

struct Follower<'a> {
    session: &'a mut Session,
    sender: &'a watch::Sender<Arc<NodeView>>,
    statistics: &'a Statistics,
    live: NodeView,
    /// A full reading under way, and the events since it began: it may have missed them.
    reading: Option<(Reading, Vec<Event>)>,
    resync_at: Instant,
    publish_at: Option<Instant>,
}

impl<'a> Follower<'a> {
    fn new(
        session: &'a mut Session,
        live: NodeView,
        sender: &'a watch::Sender<Arc<NodeView>>,
        statistics: &'a Statistics,
    ) -> Self {
        Self {
            session,
            sender,
            statistics,
            live,
            reading: None,
            // At once: what happened before the socket listened is not in `live`.
            resync_at: Instant::now(),
            publish_at: None,
        }
    }

    /// Returns when the socket breaks or nobody listens any more.
    async fn run(mut self) {
        loop {
            let publish_at = self.publish_at;
            tokio::select! {
                message = self.session.messages.next() => match message {
                    Some((message, _)) => self.take(message),
                    None => return,
                },
                result = advance(&mut self.reading) => self.finish(result),
                () = sleep_until(self.resync_at), if self.reading.is_none() => {
                    let handle = self.session.handle.clone();
                    self.reading = Some((async move { dump(&handle).await }.boxed(), Vec::new()));
                    self.resync_at = Instant::now() + RESYNC;
                }
                () = sleep_until(publish_at.unwrap_or(self.resync_at)), if publish_at.is_some() => {
                    self.publish();
                }
                () = self.sender.closed() => return,
            }
        }
    }

    /// Takes one message and all that wait behind it, then publishes once.
    fn take(&mut self, first: NetlinkMessage<RouteNetlinkMessage>) {
        let (mut changed, mut urgent) = (false, false);
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next {
            if let Some(event) = Event::from_message(&message) {
                let at_once = is_urgent(&event);
                if self.apply(event) {
                    changed = true;
                    urgent |= at_once;
                }
            }
            taken += 1;
            if taken == BATCH {
                break;
            }
            next = self
                .session
                .messages
                .try_recv()
                .ok()
                .map(|(message, _)| message);
        }
        self.statistics.events.fetch_add(taken, Ordering::Relaxed);
        if urgent {
            self.publish();
        } else if changed {
            self.publish_at.get_or_insert(Instant::now() + GATHER);
        }
    }

    fn apply(&mut self, event: Event) -> bool {
        let now = Instant::now();
        match &event {
            Event::Overrun => {
                self.statistics.overruns.fetch_add(1, Ordering::Relaxed);
                tracing::info!("the kernel dropped rtnetlink events, reading the node anew");
                self.resync_at = now;
            }
            Event::LinkGone(_) | Event::AddressGone(..) => {
                self.resync_at = self.resync_at.min(now + SETTLE);
            }
            Event::Link(link) if !link.up && self.was_up(link.index) => {
                self.resync_at = self.resync_at.min(now + SETTLE);
            }
            _ => {}
        }
        if let Some((_, missed)) = &mut self.reading {
            missed.push(event.clone());
        }
        self.live.apply(event)
    }

    fn was_up(&self, index: u32) -> bool {
        self.live
            .interfaces
            .get(&index)
            .is_some_and(|before| before.up)
    }

    fn finish(&mut self, result: Result<NodeView, Error>) {
        let missed = self
            .reading
            .take()
            .map(|(_, missed)| missed)
            .unwrap_or_default();
        match result {
            Ok(mut view) => {
                self.statistics.resyncs.fetch_add(1, Ordering::Relaxed);
                for event in missed {
                    view.apply(event);
                }
                view.succeed(&self.live);
                self.live = view;
                self.publish();
            }
            Err(error) => {
                self.statistics.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "could not read the node, trying again");
                self.resync_at = Instant::now() + RETRY;
            }
        }
    }

    fn publish(&mut self) {
        self.publish_at = None;
        let live = &self.live;
        self.sender.send_if_modified(|view| {
            let changed = **view != *live;
            if changed {
                *view = Arc::new(live.clone());
            }
            changed
        });
    }
}

/// Hooks wait for these: they are published without delay.
fn is_urgent(event: &Event) -> bool {
    matches!(
        event,
        Event::Link(_) | Event::LinkGone(_) | Event::Address(..) | Event::AddressGone(..)
    )
}

/// Waits for the reading under way, for ever when there is none.
async fn advance(reading: &mut Option<(Reading, Vec<Event>)>) -> Result<NodeView, Error> {
    match reading {
        Some((reading, _)) => reading.await,
        None => std::future::pending().await,
    }
}
