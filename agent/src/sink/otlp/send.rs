//! The two ways of OTLP: gRPC, and protobuf in HTTP requests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use axum::http::{Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use prost::Message;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::worker::Refused;

/// A collector that has not answered within this is tried again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that are read of an answer: it has a number and a line of text.
const LONGEST_ANSWER: usize = 64 * 1024;

const AGENT: &str = concat!("nodescope/", env!("CARGO_PKG_VERSION"));

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, by convention on port 4317.
    Grpc,
    /// Protobuf in HTTP requests, by convention on port 4318.
    Http,
}

/// A collector that cannot be spoken to, whether it is there or not.
#[derive(Debug, thiserror::Error)]
#[error("--otlp-endpoint {url}: {reason}: give the URL of a collector, such as http://HOST:4317")]
pub struct Error {
    url: String,
    reason: String,
}

/// A collector.
#[derive(Clone, Debug)]
pub struct Receiver(Sender);

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

#[derive(Clone, Debug)]
pub(super) enum Sender {
    Grpc(Channel),
    Http {
        client: Box<HttpClient>,
        logs: Uri,
        metrics: Uri,
    },
}

/// Why a request was not taken.
#[derive(Debug)]
pub(super) struct Failure {
    /// For people.
    pub(super) reason: String,
    /// Whether it may be taken later.
    pub(super) again: bool,
    /// When the collector wants it again.
    pub(super) after: Option<Duration>,
}

impl Receiver {
    /// The collector at a URL; connected to when there is something to send. Over https it is
    /// checked by the authorities in a file (PEM), or by those of this machine.
    ///
    /// # Errors
    /// When the URL is none, or there are no authorities for an https one.
    pub fn new(url: &str, protocol: Protocol, authorities: Option<&Path>) -> Result<Self, Error> {
        let failed = |reason: String| Error {
            url: url.to_owned(),
            reason,
        };
        let secure = url.starts_with("https:");
        let sender = match protocol {
            Protocol::Grpc => {
                let mut endpoint = Endpoint::from_shared(url.to_owned())
                    .and_then(|endpoint| endpoint.user_agent(AGENT))
                    .map_err(|error| failed(error.to_string()))?
                    .connect_timeout(TIMEOUT)
                    .timeout(TIMEOUT);
                if secure {
                    let tls = ClientTlsConfig::new();
                    let tls = match authorities {
                        None => tls.with_native_roots(),
                        Some(file) => {
                            // Looked at here, for the endpoint takes what has no certificate in it.
                            let pem = certificates(file).map_err(failed)?.0;
                            tls.ca_certificate(Certificate::from_pem(pem))
                        }
                    };
                    let secured = endpoint.tls_config(tls);
                    endpoint = secured.map_err(|error| failed(cause(&error)))?;
                }
                Sender::Grpc(endpoint.connect_lazy())
            }
            Protocol::Http => {
                let connector = HttpsConnectorBuilder::new()
                    .with_tls_config(tls(secure, authorities).map_err(failed)?)
                    .https_or_http()
                    .enable_http1()
                    .build();
                let base = url.trim_end_matches('/');
                let at = |path: &str| {
                    let uri = format!("{base}{path}").parse::<Uri>();
                    uri.map_err(|error| failed(error.to_string()))
                };
                Sender::Http {
                    client: Box::new(Client::builder(TokioExecutor::new()).build(connector)),
                    logs: at("/v1/logs")?,
                    metrics: at("/v1/metrics")?,
                }
            }
        };
        Ok(Self(sender))
    }

    pub(super) fn sender(&self) -> Sender {
        self.0.clone()
    }
}

/// The certificates in a PEM file, as they are and read.
fn certificates(file: &Path) -> Result<(Vec<u8>, RootCertStore), String> {
    let unusable = |why: String| format!("--otlp-ca {}: {why}", file.display());
    let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        let added = store.add(certificate);
        added.map_err(|error| unusable(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(unusable("no certificate in it: give a PEM file".to_owned()));
    }
    Ok((pem, store))
}

/// TLS with the authorities of a file or of this machine, where they are needed: an image may well
/// have none.
fn tls(needed: bool, authorities: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match authorities {
        _ if !needed => builder.with_root_certificates(RootCertStore::empty()),
        Some(file) => builder.with_root_certificates(certificates(file)?.1),
        None => {
            let native = builder.with_native_roots();
            native.map_err(|error| {
                format!("no authorities on this machine ({error}): give a file with --otlp-ca")
            })?
        }
    };
    Ok(config.with_no_client_auth())
}

impl Sender {
    /// Sends log records; how many of them were refused.
    pub(super) async fn logs(&self, request: ExportLogsServiceRequest) -> Result<Refused, Failure> {
        let answer = match self {
            Self::Grpc(channel) => {
                let mut client = LogsServiceClient::new(channel.clone());
                client.export(request).await?.into_inner()
            }
            Self::Http { client, logs, .. } => {
                let body = post(client, logs, &request).await?;
                // A collector that took them need not say more.
                ExportLogsServiceResponse::decode(body).unwrap_or_default()
            }
        };
        let refused = answer
            .partial_success
            .filter(|part| part.rejected_log_records > 0);
        Ok(refused.map(|part| {
            let count = usize::try_from(part.rejected_log_records).unwrap_or(usize::MAX);
            (count, part.error_message)
        }))
    }

    /// Sends metrics.
    pub(super) async fn metrics(
        &self,
        request: ExportMetricsServiceRequest,
    ) -> Result<(), Failure> {
        match self {
            Self::Grpc(channel) => {
                let mut client = MetricsServiceClient::new(channel.clone());
                client.export(request).await?;
            }
            Self::Http {
                client, metrics, ..
            } => {
                post(client, metrics, &request).await?;
            }
        }
        Ok(())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        // OTLP, "Failures": those that may be tried again. An exhausted collector may even without
        // a word on when: one that is short of memory says so for a moment.
        let again = matches!(
            status.code(),
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
                | Code::ResourceExhausted
        );
        Self {
            reason: format!("{:?}: {}", status.code(), cause(&status)),
            // A broken connection is told of as one of these.
            again: again || std::error::Error::source(&status).is_some(),
            after: None,
        }
    }
}

async fn post(client: &HttpClient, to: &Uri, message: &impl Message) -> Result<Bytes, Failure> {
    let broken = |reason: String| Failure {
        reason,
        again: true,
        after: None,
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(to)
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(USER_AGENT, AGENT)
        .body(Full::new(Bytes::from(message.encode_to_vec())))
        .map_err(|error| broken(error.to_string()))?;
    let asked = async {
        let answer = client.request(request).await;
        let answer = answer.map_err(|error| broken(cause(&error)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
        Ok::<_, Failure>((head, body))
    };
    let answered = tokio::time::timeout(TIMEOUT, asked).await;
    let (head, body) = answered.map_err(|_| broken(format!("no answer within {TIMEOUT:?}")))??;
    if head.status.is_success() {
        return Ok(body);
    }
    let after = head.headers.get(RETRY_AFTER);
    let seconds = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Err(Failure {
        reason: format!("HTTP {}", head.status),
        // OTLP/HTTP, "Failures".
        again: matches!(
            head.status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        ),
        after: seconds.map(Duration::from_secs),
    })
}

/// What the system said, behind the layers that passed it on.
fn cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
