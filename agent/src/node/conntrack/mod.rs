//! The conntrack table of the agent's own network namespace by netlink: what is in it, what
//! comes, what goes. This is how translations are known where a packet's own entry cannot be
//! read.

mod message;

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, TokioSocket};
use nodescope_ebpf::NatRecord;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use message::Piece;

/// `NFNLGRP_CONNTRACK_NEW` (uapi linux/netfilter/nfnetlink_compat.h, as the next one).
const GROUP_NEW: u32 = 1;
/// `NFNLGRP_CONNTRACK_DESTROY`.
const GROUP_DESTROY: u32 = 3;
/// Receive buffer asked for, in bytes; the kernel caps it at `net.core.rmem_max`.
const RECEIVE_BUFFER: i32 = 8 << 20;
/// Bytes of one reading; the kernel packs a dump into pieces of up to 32 KiB.
const PIECE: usize = 64 << 10;
/// The table is read anew so often: entries from before the agent's start may go without a word.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// The same where events are switched off, and readings are all there is.
const READ_OFTEN: Duration = Duration::from_secs(2);
/// Pause before trying again what failed.
const RETRY: Duration = Duration::from_secs(1);
/// Lists of changes that wait for the engine. When it is late, the kernel's buffer fills up, and
/// the table is read anew.
const WAITING: usize = 256;

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The kernel's number for it (`CTA_ID`).
    pub id: u32,
    /// What is translated into what.
    pub nat: NatRecord,
}

/// What happened to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new entry.
    New(Entry),
    /// One that a reading found.
    Known(Entry),
    /// An entry is gone.
    Gone(Entry),
    /// A reading of the whole table begins.
    Reading,
    /// It is over: what it did not find and is not new is gone.
    Read,
}

/// The live table, for as long as this value lives.
#[derive(Debug)]
pub struct Conntrack {
    changes: mpsc::Receiver<Vec<Change>>,
    /// Aborted on drop.
    _task: JoinSet<()>,
}

impl Conntrack {
    /// The next changes, in their order; `None` when the task behind is gone.
    pub async fn next(&mut self) -> Option<Vec<Change>> {
        self.changes.recv().await
    }
}

/// Why the table cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket, or none that hears of conntrack.
    #[error(
        "conntrack events by netlink: {0} (they need CAP_NET_ADMIN and a kernel with nf_conntrack_netlink)"
    )]
    Socket(#[from] io::Error),
}

/// Follows the table of the current network namespace.
///
/// # Errors
/// When the sockets cannot be opened or the kernel has no conntrack netlink; later failures are
/// logged and mended by reading anew.
pub fn conntrack() -> Result<Conntrack, Error> {
    let listen = listen()?;
    // Fails now where it will always fail.
    let ask = socket()?;
    let (sender, changes) = mpsc::channel(WAITING);
    let mut task = JoinSet::new();
    task.spawn(follow(listen, ask, sender));
    Ok(Conntrack {
        changes,
        _task: task,
    })
}

/// Whether conntrack tells of changes (`net.netfilter.nf_conntrack_events`; not there: it does).
pub fn has_events() -> bool {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_events")
        .map_or(true, |value| value.trim() != "0")
}

/// Whether the table of the current network namespace could be followed.
///
/// # Errors
/// Why not.
pub fn probe() -> Result<(), Error> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    Ok(socket.add_membership(GROUP_NEW)?)
}

fn socket() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    Ok(socket)
}

fn listen() -> io::Result<TokioSocket> {
    let mut socket = socket()?;
    // Best effort: a smaller buffer only means that an overrun comes sooner.
    if let Err(error) = socket.socket_mut().set_rx_buf_sz(RECEIVE_BUFFER) {
        tracing::debug!(%error, "the buffer for conntrack events stays at its default");
    }
    for group in [GROUP_NEW, GROUP_DESTROY] {
        socket.socket_mut().add_membership(group)?;
    }
    Ok(socket)
}

async fn follow(mut listen: TokioSocket, ask: TokioSocket, sender: mpsc::Sender<Vec<Change>>) {
    let mut ask = Some(ask);
    let mut reading: Option<JoinHandle<io::Result<()>>> = None;
    let mut read_at = Instant::now();
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        tokio::select! {
            received = receive(&mut listen, &mut buffer) => match received {
                Ok(()) => {
                    let changes = Piece::decode(&buffer, false).unwrap_or_default().changes;
                    if !changes.is_empty() && sender.send(changes).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if error.raw_os_error() != Some(libc::ENOBUFS) {
                        tracing::warn!(%error, "conntrack events");
                        tokio::time::sleep(RETRY).await;
                    }
                    // Some events are lost: only the table itself says what is true.
                    read_at = Instant::now();
                }
            },
            result = over(&mut reading) => {
                reading = None;
                if let Err(error) = result {
                    tracing::warn!(%error, "reading the conntrack table");
                    read_at = Instant::now() + RETRY;
                }
            }
            () = sleep_until(read_at), if reading.is_none() => {
                read_at = Instant::now() + if has_events() { READ_AGAIN } else { READ_OFTEN };
                match ask.take().map_or_else(socket, Ok) {
                    Ok(socket) => reading = Some(tokio::spawn(read(socket, sender.clone()))),
                    Err(error) => tracing::warn!(%error, "reading the conntrack table"),
                }
            }
            () = sender.closed() => return,
        }
    }
}

/// Waits for the end of the reading under way, for ever when there is none.
async fn over(reading: &mut Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    match reading {
        Some(reading) => reading.await.unwrap_or_else(|error| Err(error.into())),
        None => std::future::pending().await,
    }
}

async fn receive(socket: &mut TokioSocket, buffer: &mut BytesMut) -> io::Result<()> {
    buffer.clear();
    buffer.reserve(PIECE);
    socket.recv(buffer).await
}

/// Reads the whole table.
async fn read(mut socket: TokioSocket, sender: mpsc::Sender<Vec<Change>>) -> io::Result<()> {
    // The engine is gone when nobody takes what is sent: nothing to do for it then.
    let send = async |changes| sender.send(changes).await.map_err(io::Error::other);
    send(vec![Change::Reading]).await?;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let inner = NetfilterMessageInner::from(ConntrackMessage::Get(Vec::new()));
    let mut request = NetlinkMessage::from(NetfilterMessage::new(header, inner));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes).await?;
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        receive(&mut socket, &mut buffer).await?;
        let mut piece = Piece::decode(&buffer, true)?;
        if piece.last {
            piece.changes.push(Change::Read);
        }
        if !piece.changes.is_empty() {
            send(piece.changes).await?;
        }
        if piece.last {
            return Ok(());
        }
    }
}

/// Messages of a piece, those that can be decoded.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkPayload<NetfilterMessage>> {
    std::iter::from_fn(move || {
        loop {
            let length = bytes.get(..4)?;
            let length = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize;
            let message = bytes.get(..length).filter(|message| !message.is_empty())?;
            // NLMSG_ALIGN of uapi linux/netlink.h.
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            match NetlinkMessage::<NetfilterMessage>::deserialize(message) {
                Ok(message) => return Some(message.payload),
                Err(error) => tracing::debug!(%error, "a conntrack message"),
            }
        }
    })
}
