//! A way from one namespace's loopback to the API server on another's.
//!
//! Nodes reach the API server without a packet on any interface that the agent looks at, so
//! that list and watch traffic does not disturb exact counts.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use super::netns::Netns;

/// A relay that runs; it takes no new connections after it is dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens: the namespace, or where the process is.
    netns: Option<Netns>,
    listen: SocketAddr,
    stopped: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Relay {
    /// Relays connections to `listen` in `netns` to `target` where the caller is.
    pub fn start(netns: &Netns, listen: SocketAddr, target: SocketAddr) -> Result<Self> {
        // A socket stays in the namespace that it was made in.
        let listener = netns
            .enter(|| TcpListener::bind(listen))?
            .with_context(|| format!("listening on {listen} in {}", netns.name()))?;
        let connect = move || TcpStream::connect(target).ok();
        Self::run(listener, Some(netns.clone()), connect)
    }

    /// Relays connections to a free port of the caller's loopback to `target` in `netns`.
    pub fn into_netns(netns: &Netns, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let netns = netns.clone();
        let connect = move || netns.enter(|| TcpStream::connect(target).ok()).ok()?;
        Self::run(listener, None, connect)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    fn run(
        listener: TcpListener,
        netns: Option<Netns>,
        connect: impl Fn() -> Option<TcpStream> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listen = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let connect = Arc::new(connect);
        let acceptor = std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let connect = Arc::clone(&connect);
                std::thread::spawn(move || {
                    // A target that is away closes the connection: what the client must see.
                    if let Some(far) = connect() {
                        let _ = join(near, far);
                    }
                });
            }
        });
        Ok(Self {
            netns,
            listen,
            stopped,
            acceptor: Some(acceptor),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // One connection wakes the acceptor, which then sees that it is to stop.
        let listen = self.listen;
        let connect = || TcpStream::connect(listen).is_ok();
        let woken = match &self.netns {
            Some(netns) => netns.enter(connect).unwrap_or(false),
            None => connect(),
        };
        if let (true, Some(acceptor)) = (woken, self.acceptor.take()) {
            let _ = acceptor.join();
        }
    }
}

/// Copies both ways until both have ended.
fn join(near: TcpStream, far: TcpStream) -> io::Result<()> {
    let (near_read, far_write) = (near.try_clone()?, far.try_clone()?);
    let up = std::thread::spawn(move || copy(near_read, far_write));
    copy(far, near);
    let _ = up.join();
    Ok(())
}

/// Copies one way; an end or an error of either side ends the other.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
