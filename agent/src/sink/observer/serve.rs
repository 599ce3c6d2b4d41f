//! The listening side: a unix socket, or TCP.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Response};
use tonic::transport::server::{Router, TcpIncoming};
use tower::layer::util::{Identity, Stack};
use tower::util::MapResponseLayer;

use super::listen;
use super::state::Observer;
use crate::sink::proto::node::checks_server::ChecksServer;
use crate::sink::proto::node::drops_server::DropsServer;
use crate::sink::proto::node::nat_server::NatServer;
use crate::sink::proto::node::node_server::NodeServer;
use crate::sink::proto::node::probes_server::ProbesServer;
use crate::sink::proto::node::services_server::ServicesServer;
use crate::sink::proto::observer::observer_server::ObserverServer;
use crate::sink::proto::peer::peer_server::PeerServer;

/// Name under which stock clients ask for the health of the server.
const HEALTH_NAME: &str = "hubble.server.Observer";

/// Response header by which stock clients learn the version. They warn of one whose minor number
/// is above their own, so it is the number alone.
const VERSION_HEADER: &str = "hubble-server-version";

/// How often a silent client is asked for a sign of life, and how long it has for that: a relay
/// whose node is gone is not sent flows for ever.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Who runs the agent, and the group they choose, may talk to it.
const SOCKET_MODE: u32 = 0o660;

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else answers on the socket.
    #[error("socket {0}: an agent serves it already: stop that one or give another --socket")]
    InUse(PathBuf),
    /// The path is taken by something that is no socket.
    #[error("socket {0}: is there and no socket: remove it or give another --socket")]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("socket {path}: {source}: give a --socket in a directory that can be written to")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("address {address}: {source}: give another --listen-hubble")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server stopped by itself.
    #[error("gRPC server: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Serves on a unix socket until `shutdown`; then ends all streams and removes the socket.
///
/// # Errors
/// When the socket is served already or cannot be made, or the server fails.
pub async fn serve(
    socket: &Path,
    observer: Observer,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let listener = bind(socket).await?;
    serve_unix(listener, socket, observer, shutdown).await
}

/// As [`serve`], on a socket that [`bind`] made.
///
/// # Errors
/// When the server fails.
pub async fn serve_unix(
    listener: UnixListener,
    socket: &Path,
    observer: Observer,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let router = router(&observer).await;
    let incoming = UnixListenerStream::new(listener);
    let served = router
        .serve_with_incoming_shutdown(incoming, ending(observer, shutdown))
        .await;
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::debug!(socket = %socket.display(), %error, "socket left behind");
    }
    Ok(served?)
}

/// Listens on the network.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| Error::Address { address, source })
}

/// Serves on a listener that [`bind_tcp`] made until `shutdown`, with TLS if the server's
/// configuration has a certificate.
///
/// # Errors
/// When the server fails.
pub async fn serve_tcp(
    listener: TcpListener,
    observer: Observer,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let router = router(&observer).await;
    let network = observer.config().network.as_ref();
    let certificates = network
        .and_then(|network| network.tls.as_ref())
        .map(Arc::clone);
    let ending = ending(observer, shutdown);
    Ok(match certificates {
        Some(certificates) => {
            let incoming = listen::encrypted(listener, certificates);
            router.serve_with_incoming_shutdown(incoming, ending).await
        }
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming, ending).await
        }
    }?)
}

/// A graceful stop waits for streams, and those that follow never end by themselves.
async fn ending(observer: Observer, shutdown: impl Future<Output = ()>) {
    shutdown.await;
    observer.close();
}

/// Puts the version into every answer.
type Versioned = MapResponseLayer<fn(Response<Body>) -> Response<Body>>;

fn versioned(mut response: Response<Body>) -> Response<Body> {
    let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
    response.headers_mut().insert(VERSION_HEADER, version);
    response
}

async fn router(observer: &Observer) -> Router<Stack<Versioned, Identity>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status(HEALTH_NAME, tonic_health::ServingStatus::Serving)
        .await;
    let layer: Versioned = MapResponseLayer::new(versioned);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .layer(layer)
        .add_service(health)
        .add_service(ObserverServer::new(observer.clone()))
        .add_service(PeerServer::new(observer.clone()))
        .add_service(NodeServer::new(observer.clone()))
        .add_optional_service(observer.nat().cloned().map(NatServer::new))
        .add_optional_service(observer.drops().cloned().map(DropsServer::new))
        .add_optional_service(observer.insights().cloned().map(ServicesServer::new))
        .add_optional_service(observer.insights().cloned().map(ChecksServer::new))
        .add_service(ProbesServer::new(observer.clone()))
}

/// Makes the socket, mode 0660; one that a dead agent left is replaced.
///
/// # Errors
/// When it is served already, is no socket, or cannot be made.
pub async fn bind(socket: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Socket {
        path: socket.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(socket) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::NotASocket(socket.to_owned()));
        }
        Ok(_) => match UnixStream::connect(socket).await {
            Ok(_) => return Err(Error::InUse(socket.to_owned())),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(parent) = socket.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
        }
        Err(error) => return Err(failed(error)),
    }
    // Made under another name and moved into place, so that nobody finds it before it has its
    // mode, and an old one is replaced in one step.
    let mut fresh = socket.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let made = UnixListener::bind(&fresh).and_then(|listener| {
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        std::fs::rename(&fresh, socket)?;
        Ok(listener)
    });
    made.map_err(|error| {
        // It may not even have been made.
        let _ = std::fs::remove_file(&fresh);
        failed(error)
    })
}
