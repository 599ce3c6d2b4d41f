//! Connections: accepted from a socket that may have been made in another network namespace,
//! plain or TLS as the client begins, refused and broken on demand.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::{Shutdown, bind, listen, shutdown};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Shared, routes};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Pause after a failed accept (out of file descriptors, say), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// First byte of a TLS handshake record (RFC 8446, 5.1); no HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// Whether connections are taken. Each time it is sent, also unchanged, it breaks those that are
/// open.
#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    refusing: bool,
}

/// The listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    gate: watch::Sender<Gate>,
}

impl Listener {
    /// Takes over a bound and listening socket.
    ///
    /// # Errors
    /// What the system says where it is not one.
    pub(super) fn new(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            address,
            gate: watch::Sender::default(),
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new connections (as a host with no such server does: the kernel answers RST), or
    /// takes them again. The socket itself is kept, since it may belong to a network namespace
    /// that this process is not in. Connections already open are broken.
    ///
    /// # Errors
    /// What the system says to `shutdown`, `bind` or `listen`.
    pub(super) fn refuse(&self, refusing: bool) -> io::Result<()> {
        // Shutting down a socket that does not listen would mark it, and with it every connection
        // accepted from it later, as closed.
        if self.gate.borrow().refusing == refusing {
            return Ok(());
        }
        if refusing {
            self.change(|gate| gate.refusing = true);
            return Ok(shutdown(&self.socket, Shutdown::Both)?);
        }
        // A port that the kernel chose is given back at shutdown and has to be bound again; one
        // that was asked for stays bound, and binding it again is EINVAL.
        match bind(&self.socket, &self.address) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
        listen(&self.socket, BACKLOG)?;
        self.change(|gate| gate.refusing = false);
        Ok(())
    }

    /// Breaks every open connection.
    pub(super) fn drop_connections(&self) {
        self.change(|_| {});
    }

    /// Tells when open connections are to be broken.
    pub(super) fn changes(&self) -> watch::Receiver<impl Sized + use<>> {
        self.gate.subscribe()
    }

    fn change(&self, how: impl FnOnce(&mut Gate)) {
        self.gate.send_modify(how);
    }
}

/// Accepts and serves connections until dropped; they end with it.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut gate = shared.listener.gate.subscribe();
    let mut open = JoinSet::new();
    loop {
        let refusing = gate.borrow_and_update().refusing;
        let listener = match shared.listener.socket.try_clone() {
            Ok(socket) if !refusing => tokio::net::TcpListener::from_std(socket),
            Ok(_) => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
            Err(e) => Err(e),
        };
        let Ok(listener) = listener else {
            if refusing {
                // The sender lives in `shared`: this only ends with a change.
                let _ = gate.changed().await;
            } else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            continue;
        };
        loop {
            tokio::select! {
                biased;
                _ = gate.changed() => break,
                _ = open.join_next(), if !open.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        open.spawn(connection(Arc::clone(&shared), stream, gate.clone()));
                    }
                    Err(e) => {
                        tracing::debug!("API server: accept: {e}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        break;
                    }
                },
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, mut gate: watch::Receiver<Gate>) {
    let serve = async {
        // Watch events are small and must not wait for one another's acknowledgement.
        stream.set_nodelay(true)?;
        let mut first = [0];
        stream.peek(&mut first).await?;
        if first[0] == TLS_HANDSHAKE {
            let stream = shared.tls.acceptor().accept(stream).await?;
            http(&shared, stream).await
        } else {
            http(&shared, stream).await
        }
    };
    tokio::select! {
        // Dropping the stream closes the connection, whatever was under way.
        _ = gate.changed() => {}
        served = serve => if let Err(e) = served {
            tracing::debug!("API server: connection: {e}");
        }
    }
}

async fn http<S>(shared: &Arc<Shared>, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let shared = Arc::clone(shared);
        async move { Ok::<_, Infallible>(routes::handle(shared, request.map(Body::new)).await) }
    });
    let served = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    served.map_err(io::Error::other)
}
