//! Questions that probers ask: HTTP, TCP, gRPC health.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How a probe ended.
pub(super) struct Outcome {
    /// Whether the answer is one of health.
    pub(super) healthy: bool,
    /// HTTP status, gRPC serving status, or what went wrong.
    pub(super) detail: Value,
    /// From the first packet to the verdict.
    pub(super) latency: Duration,
}

/// Times `question` and gives it at most `patience`. Its answer is whether it speaks of health,
/// and the detail.
pub(super) async fn timed(
    patience: Duration,
    question: impl Future<Output = Result<(bool, Value)>>,
) -> Outcome {
    let start = Instant::now();
    let (healthy, detail) = match tokio::time::timeout(patience, question).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => (false, json!(format!("{error:#}"))),
        Err(_) => (false, json!("timeout")),
    };
    Outcome {
        healthy,
        detail,
        latency: start.elapsed(),
    }
}

/// Connects from `source`, if given.
pub(super) async fn connect(to: SocketAddr, source: Option<Ipv4Addr>) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(source) = source {
        socket.bind(SocketAddr::from((source, 0)))?;
    }
    socket
        .connect(to)
        .await
        .with_context(|| format!("connecting to {to}"))
}

/// `GET path`: the status, which is one of health from 200 up to below `bad`.
pub(super) async fn http(
    to: SocketAddr,
    source: Option<Ipv4Addr>,
    path: &str,
    user_agent: &str,
    bad: u16,
) -> Result<(bool, Value)> {
    let stream = connect(to, source).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", to.to_string())
        .header("user-agent", user_agent)
        .header("accept", "*/*")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    response.into_body().collect().await?;
    driver.await??;
    Ok(((200..bad).contains(&status), json!(status)))
}

/// gRPC health of `service`.
pub(super) async fn grpc(to: SocketAddr, service: &str, user_agent: &str) -> Result<(bool, Value)> {
    let channel = Endpoint::from_shared(format!("http://{to}"))?
        .user_agent(user_agent.to_owned())?
        .connect()
        .await?;
    let service = service.to_owned();
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service })
        .await;
    match answer {
        Ok(answer) => {
            let status = answer.into_inner().status();
            Ok((
                status == ServingStatus::Serving,
                json!(status.as_str_name()),
            ))
        }
        Err(status) => Ok((false, json!(format!("{:?}", status.code())))),
    }
}

/// A connection that opens.
pub(super) async fn tcp(to: SocketAddr, source: Option<Ipv4Addr>) -> Result<(bool, Value)> {
    let stream = connect(to, source).await?;
    ensure!(stream.peer_addr()? == to, "connected to another address");
    Ok((true, json!("connected")))
}
