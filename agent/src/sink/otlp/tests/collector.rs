//! A collector that speaks OTLP both ways, and can be told to refuse.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use nodescope_tests::pki::Issued;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::Router;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::super::Protocol;
use super::{any_port, until};

/// What a collector says to the next requests with records; when there is nothing left to say it
/// takes them.
pub(super) enum Say {
    /// Come again.
    Later,
    /// Never come again with this.
    Never,
    /// Taken, but for so many.
    But(i64),
}

#[derive(Clone, Default)]
pub(super) struct Collector(pub(super) Arc<Inner>);

#[derive(Default)]
pub(super) struct Inner {
    pub(super) logs: Mutex<Vec<ExportLogsServiceRequest>>,
    pub(super) metrics: Mutex<Vec<ExportMetricsServiceRequest>>,
    pub(super) say: Mutex<Vec<Say>>,
    pub(super) tries: AtomicUsize,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    fn take(&self, request: ExportLogsServiceRequest) -> Result<ExportLogsServiceResponse, Say> {
        self.0.tries.fetch_add(1, Ordering::Relaxed);
        let rejected_log_records = match locked(&self.0.say).pop() {
            Some(say @ (Say::Later | Say::Never)) => return Err(say),
            Some(Say::But(count)) => count,
            None => 0,
        };
        locked(&self.0.logs).push(request);
        Ok(ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records,
                error_message: String::new(),
            }),
        })
    }

    pub(super) fn records(&self) -> Vec<LogRecord> {
        let logs = locked(&self.0.logs);
        let resources = logs.iter().flat_map(|request| &request.resource_logs);
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        scopes.flat_map(|scope| scope.log_records.clone()).collect()
    }

    /// Waits until it has so many records.
    pub(super) async fn has(&self, count: usize) -> anyhow::Result<Vec<LogRecord>> {
        until(|| self.records().len() >= count)
            .await
            .context("no more records")?;
        Ok(self.records())
    }

    /// Serves until the task is ended.
    pub(super) async fn serve(
        &self,
        protocol: Protocol,
        address: SocketAddr,
    ) -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let own = self.clone();
        let task = tokio::spawn(async move {
            let served = match protocol {
                Protocol::Grpc => own
                    .services(Server::builder())
                    .serve_with_incoming(TcpListenerStream::new(listener))
                    .await
                    .map_err(anyhow::Error::from),
                Protocol::Http => axum::serve(listener, own.routes())
                    .await
                    .map_err(Into::into),
            };
            assert!(served.is_ok(), "{served:?}");
        });
        Ok((address, task))
    }

    /// As [`Collector::serve`] on any port of the loopback, over TLS.
    pub(super) async fn serve_tls(
        &self,
        protocol: Protocol,
        issued: &Issued,
    ) -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
        let own = self.clone();
        let listener = TcpListener::bind(any_port()).await?;
        let address = listener.local_addr()?;
        let task = if protocol == Protocol::Grpc {
            let identity = Identity::from_pem(&issued.cert, &issued.key);
            let tls = ServerTlsConfig::new().identity(identity);
            let router = own.services(Server::builder().tls_config(tls)?);
            tokio::spawn(async move {
                let served = router.serve_with_incoming(TcpListenerStream::new(listener));
                assert!(served.await.is_ok());
            })
        } else {
            let chain = CertificateDer::pem_slice_iter(issued.cert.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
            let provider = Arc::new(ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(chain.collect::<Result<_, _>>()?, key)?;
            let listener = TlsListener {
                tcp: listener,
                acceptor: TlsAcceptor::from(Arc::new(config)),
            };
            tokio::spawn(async move {
                let served = axum::serve(listener, own.routes()).await;
                assert!(served.is_ok(), "{served:?}");
            })
        };
        Ok((address, task))
    }

    fn services(self, mut server: Server) -> Router {
        server
            .add_service(LogsServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self))
    }

    fn routes(self) -> axum::Router {
        axum::Router::new()
            .route("/base/v1/logs", axum::routing::post(http_logs))
            .route("/base/v1/metrics", axum::routing::post(http_metrics))
            .with_state(self)
    }
}

/// Connections once their handshake is done.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, peer) = axum::serve::Listener::accept(&mut self.tcp).await;
            // A client that does not trust us leaves.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        match self.take(request.into_inner()) {
            Ok(answer) => Ok(Response::new(answer)),
            Err(Say::Later) => Err(Status::unavailable("full")),
            Err(_) => Err(Status::invalid_argument("never")),
        }
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        locked(&self.0.metrics).push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn http_logs(
    State(own): State<Collector>,
    headers: HeaderMap,
    body: Bytes,
) -> axum::response::Response {
    let kind = headers.get("content-type").map(|kind| kind.as_bytes());
    let request = ExportLogsServiceRequest::decode(body);
    let (Some(b"application/x-protobuf"), Ok(request)) = (kind, request) else {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    };
    match own.take(request) {
        Ok(answer) => answer.encode_to_vec().into_response(),
        Err(Say::Later) => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")]).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn http_metrics(State(own): State<Collector>, body: Bytes) -> StatusCode {
    match ExportMetricsServiceRequest::decode(body) {
        Ok(request) => {
            locked(&own.0.metrics).push(request);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}
