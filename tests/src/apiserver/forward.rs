//! Port-forwards to pods over a WebSocket, as an API server and a kubelet answer them
//! (kubernetes, `pkg/kubelet/cri/streaming/portforward/websocket.go`).
//!
//! Each port has two channels, one for its data and one for what goes wrong with it; the first byte
//! of a message is the channel's number. Both begin with a message that holds the port.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::status::Status;

/// The one protocol that is spoken here; clients offer several.
const PROTOCOL: &str = "v4.channel.k8s.io";

/// Bytes read from a pod at once.
const CHUNK: usize = 16 << 10;

/// Messages that may wait for the client.
const WAITING: usize = 16;

/// How long a client has to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a port on a pod's loopback, wherever that is.
pub type Dial = Arc<dyn Fn(u16) -> io::Result<TcpStream> + Send + Sync>;

/// The ports of a query: `ports=80` or `ports=80,443`, or several of them; a kubelet is asked with
/// `port`.
///
/// # Errors
/// Where there is none, or one is no port.
pub fn ports(query: &str) -> Result<Vec<u16>, Status> {
    let mut ports = Vec::new();
    for (_, value) in form_urlencoded::parse(query.as_bytes())
        .filter(|(key, _)| matches!(&**key, "ports" | "port"))
    {
        for text in value.split(',') {
            let port = text.parse::<u16>().ok().filter(|port| *port > 0);
            ports.push(port.ok_or_else(|| {
                Status::bad_request(format!("unable to parse {text:?} as a port"))
            })?);
        }
    }
    match ports.is_empty() {
        true => Err(Status::bad_request("query parameter \"ports\" is required")),
        false => Ok(ports),
    }
}

/// Agrees to a port-forward, and forwards once the connection is handed over, until either side or
/// `over` ends it.
///
/// # Errors
/// 400 for what asks for no WebSocket of a protocol known here.
pub fn answer(
    mut request: Request<Body>,
    ports: Vec<u16>,
    dial: Dial,
    over: impl Future<Output = ()> + Send + 'static,
) -> Result<Response<Body>, Status> {
    let key = accept(request.headers())?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(connection) = upgrade.await else {
            return;
        };
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, None).await;
        tokio::select! {
            () = forward(socket, ports, dial) => {}
            () = over => {}
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
        .headers_mut()
        .insert(header::SEC_WEBSOCKET_ACCEPT, key);
    Ok(response)
}

/// The answer to the key of a handshake (RFC 6455, 4.2.2).
fn accept(headers: &HeaderMap) -> Result<HeaderValue, Status> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let upgrade = text(header::UPGRADE).unwrap_or_default();
    let protocols = text(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let key = text(header::SEC_WEBSOCKET_KEY);
    let known = protocols
        .split(',')
        .any(|offered| offered.trim() == PROTOCOL);
    match key {
        Some(key) if upgrade.eq_ignore_ascii_case("websocket") && known => {
            HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
                .map_err(|_| Status::bad_request("no key of a WebSocket handshake"))
        }
        _ => Err(Status::bad_request(format!(
            "port-forwards are served here over a WebSocket with protocol {PROTOCOL} only"
        ))),
    }
}

async fn forward<S>(socket: WebSocketStream<S>, ports: Vec<u16>, dial: Dial)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Vec<u8>>(WAITING);
    let mut incoming = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (channel, port) in (0_u8..).step_by(2).zip(ports) {
        let (to_pod, from_client) = mpsc::channel(WAITING);
        incoming.push(to_pod);
        tasks.spawn(one(
            channel,
            port,
            dial.clone(),
            from_client,
            sender.clone(),
        ));
    }
    drop(sender);
    loop {
        tokio::select! {
            message = outgoing.recv() => {
                let Some(message) = message else { break };
                if sink.send(Message::binary(message)).await.is_err() {
                    return;
                }
            }
            message = stream.next() => match message {
                Some(Ok(Message::Binary(mut bytes))) if !bytes.is_empty() => {
                    let channel = usize::from(bytes.split_to(1)[0]);
                    // What is for a port that ended is for nobody.
                    if let Some(pod) = incoming.get(channel / 2) {
                        let _ = pod.send(bytes).await;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    // Closed with the client, not before it: what it has sent meanwhile would reset the connection,
    // and with it goes what was sent last, the reason.
    let _ = sink.send(Message::Close(None)).await;
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
        while let Some(Ok(message)) = stream.next().await {
            if message.is_close() {
                break;
            }
        }
    })
    .await;
}

/// One port, until the pod or the client ends it.
async fn one(
    channel: u8,
    port: u16,
    dial: Dial,
    from_client: mpsc::Receiver<Bytes>,
    to_client: mpsc::Sender<Vec<u8>>,
) {
    let [low, high] = port.to_le_bytes();
    for channel in [channel, channel + 1] {
        if to_client.send(vec![channel, low, high]).await.is_err() {
            return;
        }
    }
    let dialled = tokio::task::spawn_blocking(move || {
        let stream = dial(port)?;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    });
    let dialled = dialled.await.map_err(io::Error::other).flatten();
    let done = match dialled {
        Ok(stream) => copy(channel, stream, from_client, &to_client).await,
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        let text = format!("error forwarding port {port} to pod: {error}");
        let message = [&[channel + 1], text.as_bytes()].concat();
        let _ = to_client.send(message).await;
    }
}

async fn copy(
    channel: u8,
    mut stream: tokio::net::TcpStream,
    mut from_client: mpsc::Receiver<Bytes>,
    to_client: &mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let (mut pod, mut to_pod) = stream.split();
    let mut buffer = vec![0; CHUNK];
    loop {
        tokio::select! {
            read = pod.read(&mut buffer) => {
                let length = read?;
                if length == 0 {
                    return Ok(());
                }
                let message = [&[channel], &buffer[..length]].concat();
                if to_client.send(message).await.is_err() {
                    return Ok(());
                }
            }
            bytes = from_client.recv() => match bytes {
                Some(bytes) => to_pod.write_all(&bytes).await?,
                None => return Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_query() {
        let ports = |query| ports(query).map_err(|status| status.code);
        assert_eq!(ports("ports=80,443"), Ok(vec![80, 443]));
        assert_eq!(ports("ports=80&ports=81"), Ok(vec![80, 81]));
        assert_eq!(ports("port=4244"), Ok(vec![4244]));
        for bad in ["", "ports=", "ports=0", "ports=http"] {
            assert_eq!(ports(bad), Err(400), "{bad}");
        }
    }
}
