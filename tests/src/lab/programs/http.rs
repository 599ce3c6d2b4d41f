//! HTTP: a server that tells the client which address it came from, and its client.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::Request;
use axum::extract::connect_info::ConnectInfo;
use axum::serve::ListenerExt;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Pace, dns, listening};

/// The largest body that a client may ask for, in bytes.
const MAX_BODY: usize = 64 << 20;

/// Serves HTTP on `listen`. Each accepted connection is a line `{"peer":…,"local":…}`, each
/// request a line `{"request":PATH,"from":…,"user_agent":…}`; each answer a JSON object with
/// the client's address, padded with blanks to `body_size` bytes. The path `/status/CODE` is
/// answered with that status.
pub(super) async fn serve(listen: SocketAddr, body_size: usize) -> Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    listening(listener.local_addr()?);
    let listener = listener.tap_io(|stream: &mut TcpStream| {
        if let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) {
            println!("{}", json!({"peer": peer, "local": local}));
        }
    });
    let answer = async move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| {
        let asked = request.uri().query().and_then(|q| q.strip_prefix("size="));
        let asked = asked.and_then(|size| size.parse().ok());
        let size = asked.unwrap_or(body_size).min(MAX_BODY);
        let text = json!({"peer": peer, "path": request.uri().path()}).to_string();
        let agent = request.headers().get("user-agent");
        let agent = agent.and_then(|name| name.to_str().ok());
        let path = request.uri().path();
        println!(
            "{}",
            json!({"request": path, "from": peer, "user_agent": agent})
        );
        let code = path.strip_prefix("/status/");
        let code = code.and_then(|code| StatusCode::from_bytes(code.as_bytes()).ok());
        let pad = size.saturating_sub(text.len() + 1);
        let body = format!("{text}{}\n", " ".repeat(pad));
        (code.unwrap_or(StatusCode::OK), body)
    };
    let service = Router::new()
        .fallback(answer)
        .into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).await?;
    Ok(())
}

/// Gets `url` and prints `{"local":…,"remote":…,"status":…,"bytes":…,"peer":…}` each time,
/// `peer` being what the server saw.
pub(super) async fn get(url: &str, dns: Option<IpAddr>, pace: Pace) -> Result<()> {
    let uri: Uri = url
        .parse()
        .with_context(|| format!("'{url}' is not a URL"))?;
    let Some(host) = uri.host().filter(|_| uri.scheme_str() == Some("http")) else {
        bail!("'{url}': give http://HOST[:PORT]/PATH");
    };
    let port = uri.port_u16().unwrap_or(80);
    for round in 0..pace.count {
        pace.wait(round).await;
        let ip = match (host.parse::<IpAddr>(), dns) {
            (Ok(ip), _) => ip,
            (Err(_), Some(server)) => dns::resolve(host, server, pace).await?,
            (Err(_), None) => bail!("'{host}' is a name: give --dns SERVER"),
        };
        let exchange = get_once(&uri, SocketAddr::new(ip, port), pace);
        let line = tokio::time::timeout(pace.timeout(), exchange)
            .await
            .with_context(|| format!("no answer from {url} in {:?}", pace.timeout()))??;
        println!("{line}");
    }
    Ok(())
}

async fn get_once(uri: &Uri, to: SocketAddr, pace: Pace) -> Result<serde_json::Value> {
    let socket = TcpSocket::new_v4()?;
    if pace.source_port != 0 {
        // The port may still be in TIME_WAIT from the round before.
        socket.set_reuseaddr(true)?;
        socket.bind(pace.source())?;
    }
    let stream = socket
        .connect(to)
        .await
        .with_context(|| format!("connecting to {to}"))?;
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = hyper::Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", uri.authority().map_or("", |name| name.as_str()))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    // The server closes; the connection is over when its side has been seen to end.
    driver.await??;
    let seen: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(json!({
        "local": local, "remote": remote, "status": status,
        "bytes": body.len(), "peer": seen["peer"],
    }))
}
