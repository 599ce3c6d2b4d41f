//! A gRPC server that tells of its health.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use super::listening;

/// Serves gRPC health on `listen`: the server and `service` are SERVING, or not with
/// `not_serving`. Each connection is a line `{"peer":…}`.
pub(super) async fn serve(listen: SocketAddr, service: &str, not_serving: bool) -> Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let status = match not_serving {
        true => ServingStatus::NotServing,
        false => ServingStatus::Serving,
    };
    for name in ["", service] {
        reporter.set_service_status(name, status).await;
    }
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    listening(listener.local_addr()?);
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        if let Ok(peer) = stream.as_ref().map(|stream| stream.peer_addr())
            && let Ok(peer) = peer
        {
            println!("{}", json!({"peer": peer}));
        }
        stream
    });
    Server::builder()
        .add_service(health)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
