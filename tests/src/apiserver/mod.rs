//! A small Kubernetes API server: real HTTP LIST and WATCH over an object store.
//!
//! It serves the kinds that nodescope and its tests use, to any client: kube-rs reflectors, or
//! kubectl of any version. Chunked lists, resource versions, bookmarks, streaming lists, expiry
//! and conflicts follow the real server; [`Faults`] make it misbehave on purpose.
//!
//! One port takes both plain HTTP and TLS. Clients built on client-go, kubectl among them, send
//! a token only over TLS, so their kubeconfig must name an `https` URL.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use nodescope_tests::apiserver::ApiServer;
//! let server = ApiServer::start("127.0.0.1:0".parse()?, "secret")?;
//! server.store().apply(serde_json::json!({
//!     "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
//! }))?;
//! std::fs::write("kubeconfig", server.kubeconfig(&server.url()))?;
//! # Ok(())
//! # }
//! ```

pub mod auth;
pub mod counters;
mod defaults;
mod discovery;
pub mod faults;
mod fields;
pub mod forward;
pub mod history;
pub mod kinds;
pub mod kubeconfig;
mod labels;
mod list;
mod listener;
pub mod load;
mod negotiate;
mod object;
mod params;
mod patch;
mod paths;
mod respond;
mod routes;
pub mod stamp;
pub mod status;
pub mod store;
mod table;
pub mod tls;
mod watch;
pub mod write;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use counters::{Counters, Counts};
pub use faults::{Fault, Faults};
pub use load::{objects, objects_from_file};
pub use params::StreamingLists;
pub use status::Status;
pub use store::Store;
pub use tls::Shown;

/// How often a watch gets a bookmark until [`ApiServer::set_bookmark_interval`] says otherwise:
/// the real server's minute.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// The namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token is empty, or cannot be sent in a header.
    #[error("the API server's token must be printable ASCII without blanks, and not empty")]
    Token,
    /// There is no tokio runtime to run in.
    #[error("the API server must be started within a tokio runtime")]
    NoRuntime,
    /// The address cannot be listened on.
    #[error("the API server cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The socket handed in does not listen.
    #[error("the API server cannot use the socket it was given: {0}")]
    Socket(#[source] io::Error),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// An object to begin with was refused.
    #[error("object {number} ({name:?}) cannot be loaded: {status}")]
    Object {
        /// Which of the objects, from 1.
        number: usize,
        /// Its name.
        name: String,
        /// Why.
        status: Box<Status>,
    },
}

/// Connects to a port on the loopback of a pod, which is given as its object.
pub type PodDial = Box<dyn Fn(&Value, u16) -> io::Result<TcpStream> + Send + Sync>;

/// What the connections of one server share.
struct Shared {
    store: Store,
    auth: auth::Auth,
    counters: Counters,
    faults: Faults,
    listener: listener::Listener,
    tls: tls::Tls,
    bookmark_interval: Mutex<Duration>,
    streaming_lists: Mutex<StreamingLists>,
    pods: OnceLock<PodDial>,
}

impl Shared {
    fn bookmark_interval(&self) -> Duration {
        *self
            .bookmark_interval
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn streaming_lists(&self) -> StreamingLists {
        *self
            .streaming_lists
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running API server; it ends, with its connections, when this is dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiServer on {}", self.shared.listener.address())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServer {
    /// Starts a server on an address (port 0: one that the kernel chooses) for clients that
    /// show `token`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the address is taken or the token cannot be one.
    pub fn start(listen: SocketAddr, token: &str) -> Result<Self, Error> {
        let socket = TcpListener::bind(listen).map_err(|source| Error::Listen {
            address: listen,
            source,
        })?;
        Self::start_on(socket, token)
    }

    /// Starts a server on a socket that already listens, for example one made in another network
    /// namespace. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the socket does not listen or the token cannot be one.
    pub fn start_on(socket: TcpListener, token: &str) -> Result<Self, Error> {
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Token);
        }
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let listener = listener::Listener::new(socket).map_err(Error::Socket)?;
        let shared = Arc::new(Shared {
            store: Store::default(),
            auth: auth::Auth::new(token),
            counters: Counters::default(),
            faults: Faults::default(),
            tls: tls::Tls::new(&listener.address().ip().to_string())?,
            listener,
            bookmark_interval: Mutex::new(BOOKMARK_INTERVAL),
            streaming_lists: Mutex::default(),
            pods: OnceLock::new(),
        });
        let namespaces = NAMESPACES.map(
            |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        );
        load_into(&shared.store, namespaces.into())?;
        let task = runtime.spawn(listener::run(Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.listener.address()
    }

    /// The server's URL, with TLS.
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// The server's URL, without TLS. kubectl sends no token to it; kube-rs does.
    pub fn plain_url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A kubeconfig (YAML) with the token, for clients that reach the server at a URL.
    pub fn kubeconfig(&self, server_url: &str) -> String {
        kubeconfig::kubeconfig(
            server_url,
            &self.shared.auth.token(),
            self.shared.tls.authority(),
        )
    }

    /// Shows another certificate to those who connect from now on, and breaks the connections
    /// that are open.
    ///
    /// # Errors
    /// Where the system's random numbers cannot be used.
    pub fn show_certificate(&self, shown: tls::Shown) -> Result<(), tls::Error> {
        self.shared.tls.show(shown)?;
        self.drop_connections();
        Ok(())
    }

    /// The objects.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Loads objects, in their order.
    ///
    /// # Errors
    /// Names the first object refused; those before it are loaded.
    pub fn load(&self, objects: Vec<Value>) -> Result<(), Error> {
        load_into(&self.shared.store, objects)
    }

    /// The fault switches.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The counts of requests and open watches.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The token in force, and the way to change it.
    pub fn auth(&self) -> &auth::Auth {
        &self.shared.auth
    }

    /// Forwards ports of pods by this from now on; only the first call counts. Without it, a
    /// port-forward is refused.
    pub fn reach_pods_by(&self, dial: PodDial) {
        let _ = self.shared.pods.set(dial);
    }

    /// Forgets the history of changes: lists and watches at older versions are 410, Expired.
    pub fn compact(&self) {
        self.shared.store.compact();
    }

    /// Sets how often watches that begin from now on get a bookmark; at least a millisecond.
    pub fn set_bookmark_interval(&self, interval: Duration) {
        let interval = interval.max(Duration::from_millis(1));
        *self
            .shared
            .bookmark_interval
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = interval;
    }

    /// Sets what becomes of watches that begin with the present objects, from now on.
    pub fn set_streaming_lists(&self, how: StreamingLists) {
        *self
            .shared
            .streaming_lists
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = how;
    }

    /// Refuses connections, as if no server were there, and breaks the open ones; or takes them
    /// again on the same address. New ones are refused when this returns; open ones end a moment
    /// later, see [`Counts::open_watches`].
    ///
    /// # Errors
    /// What the system says to listening again.
    pub fn refuse_connections(&self, refuse: bool) -> io::Result<()> {
        self.shared.listener.refuse(refuse)
    }

    /// Breaks every open connection; new ones are taken.
    pub fn drop_connections(&self) {
        self.shared.listener.drop_connections();
    }
}

fn load_into(store: &Store, objects: Vec<Value>) -> Result<(), Error> {
    for (at, object) in objects.into_iter().enumerate() {
        let name = object::name(&object).to_owned();
        store.apply(object).map_err(|status| Error::Object {
            number: at + 1,
            name,
            status: Box::new(status),
        })?;
    }
    Ok(())
}

/// Runs a server with some objects until the future is dropped: an API server as a process of
/// its own.
///
/// # Errors
/// See [`ApiServer::start`] and [`ApiServer::load`].
pub async fn serve(listen: SocketAddr, token: &str, objects: Vec<Value>) -> Result<(), Error> {
    let server = ApiServer::start(listen, token)?;
    server.load(objects)?;
    std::future::pending::<()>().await;
    Ok(())
}
