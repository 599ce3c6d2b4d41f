//! Connections from the network, their handshakes made beside one another.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::tls::Certificates;

/// Handshakes at once; who comes then waits in the kernel's queue.
const HANDSHAKES: usize = 64;

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be taken: for want of file descriptors it would be
/// tried again at once, and for ever.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// At least this long between two lines about failed handshakes: whoever scans ports is not to
/// fill the log.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// A connection whose handshake is done.
pub(super) type Connection = io::Result<TlsStream<TcpStream>>;

/// Connections of a listener with TLS; ends when nobody takes them any more.
pub(super) fn encrypted(
    listener: TcpListener,
    certificates: Arc<Certificates>,
) -> ReceiverStream<Connection> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let gate = Gate {
            certificates,
            failures: Mutex::new(None),
            sender,
        };
        Arc::new(gate).take(listener).await;
    });
    ReceiverStream::new(receiver)
}

struct Gate {
    certificates: Arc<Certificates>,
    /// When the last failed handshake was told about, and how many there were since.
    failures: Mutex<Option<(Instant, u64)>>,
    sender: mpsc::Sender<Connection>,
}

impl Gate {
    async fn take(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.sender.closed() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let gate = Arc::clone(&self);
                    tokio::spawn(async move {
                        gate.shake(stream, peer).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn shake(&self, stream: TcpStream, peer: SocketAddr) {
        let certificates = Arc::clone(&self.certificates);
        // Should this fail, what was read last still serves.
        let _ = tokio::task::spawn_blocking(move || certificates.refresh()).await;
        // Records are small and wanted at once; without it they only come later.
        let _ = stream.set_nodelay(true);
        let handshake = self.certificates.acceptor().accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            // Nobody takes it when the server stops.
            Ok(Ok(stream)) => drop(self.sender.send(Ok(stream)).await),
            Ok(Err(error)) => self.failed(peer, &error),
            Err(_) => self.failed(peer, &"it took too long"),
        }
    }

    fn failed(&self, peer: SocketAddr, error: &dyn std::fmt::Display) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let more = match &mut *failures {
            Some((told, more)) if told.elapsed() < SAY_AGAIN => {
                *more += 1;
                return;
            }
            other => other.map_or(0, |(_, more)| more),
        };
        *failures = Some((Instant::now(), 0));
        tracing::warn!(%peer, %error, unsaid_before = more, "TLS handshake failed");
    }
}
