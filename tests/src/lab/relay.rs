//! A way from a node's loopback to the API server on the machine's loopback.
//!
//! Nodes reach the API server without a packet on any interface that the agent looks at, so
//! that list and watch traffic does not disturb exact counts.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use super::netns::Netns;

/// A relay that runs; it takes no new connections after it is dropped.
#[derive(Debug)]
pub struct Relay {
    netns: Netns,
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
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let acceptor = std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::spawn(move || {
                    // A target that is away closes the connection: what the client must see.
                    if let Ok(far) = TcpStream::connect(target) {
                        let _ = join(near, far);
                    }
                });
            }
        });
        Ok(Self {
            netns: netns.clone(),
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
        let woken = self.netns.enter(|| TcpStream::connect(listen).is_ok());
        if let (Ok(true), Some(acceptor)) = (woken, self.acceptor.take()) {
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
