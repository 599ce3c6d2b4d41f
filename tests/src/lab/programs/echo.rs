//! Echo over TCP and UDP: servers and their clients.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Pace, listening};

/// The largest UDP datagram (RFC 768: a 16-bit length).
const MAX_DATAGRAM: usize = 65_535;

/// Serves on the addresses given, at least one.
pub(super) async fn serve(tcp: Option<SocketAddr>, udp: Option<SocketAddr>) -> Result<()> {
    match (tcp, udp) {
        (None, None) => bail!("give --tcp ADDRESS or --udp ADDRESS"),
        (Some(tcp), None) => serve_tcp(tcp).await,
        (None, Some(udp)) => serve_udp(udp).await,
        (Some(tcp), Some(udp)) => tokio::try_join!(serve_tcp(tcp), serve_udp(udp)).map(|_| ()),
    }
}

async fn serve_tcp(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on TCP {listen}"))?;
    listening(listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        println!("{}", json!({"peer": peer, "local": stream.local_addr()?}));
        tokio::spawn(async move {
            let (mut read, mut write) = stream.into_split();
            // A connection that breaks is the client's affair.
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}

async fn serve_udp(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen)
        .await
        .with_context(|| format!("cannot listen on UDP {listen}"))?;
    listening(socket.local_addr()?);
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        println!("{}", json!({"peer": peer, "bytes": length}));
        socket.send_to(&buffer[..length], peer).await?;
    }
}

/// Sends `size` bytes `pace.count` times over one connection, each time waiting for them to
/// come back; prints the addresses and the number of round trips.
pub(super) async fn tcp_send(to: SocketAddr, size: usize, pace: Pace) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(pace.source())?;
    let mut stream: TcpStream = timeout(pace.timeout(), socket.connect(to))
        .await
        .with_context(|| format!("no answer from {to}"))?
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
    let mut got = vec![0; size];
    for round in 0..pace.count {
        pace.wait(round).await;
        stream.write_all(&sent).await?;
        timeout(pace.timeout(), stream.read_exact(&mut got))
            .await
            .with_context(|| format!("no echo from {to} in round {round}"))??;
        ensure!(sent == got, "{to} sent other bytes back");
    }
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    println!(
        "{}",
        json!({"local": local, "remote": remote, "rounds": pace.count})
    );
    Ok(())
}

/// Sends `pace.count` datagrams of `size` bytes; with `answers` waits for each to come back.
/// Prints the addresses and both counts, and fails when an answer is missing.
pub(super) async fn udp_send(to: SocketAddr, size: usize, answers: bool, pace: Pace) -> Result<()> {
    let socket = UdpSocket::bind(pace.source()).await?;
    socket.connect(to).await?;
    let sent = vec![b'n'; size];
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut received = 0;
    for round in 0..pace.count {
        pace.wait(round).await;
        let mut outcome = socket.send(&sent).await;
        // What an earlier datagram met is told instead of sending this one.
        while !answers
            && matches!(&outcome, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
        {
            outcome = socket.send(&sent).await;
        }
        outcome?;
        if answers && let Ok(Ok(_)) = timeout(pace.timeout(), socket.recv(&mut buffer)).await {
            received += 1;
        }
    }
    let (local, count) = (socket.local_addr()?, pace.count);
    println!(
        "{}",
        json!({"local": local, "remote": to, "sent": count, "received": received})
    );
    ensure!(
        !answers || received == count,
        "{to} answered {received} of {count} datagrams"
    );
    Ok(())
}
