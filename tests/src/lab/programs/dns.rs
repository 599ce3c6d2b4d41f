//! DNS: a server that answers from a file, in CoreDNS's place, and its client.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{Pace, listening};

/// Time to live of answers: CoreDNS's default for cluster names.
const TTL_SECONDS: u32 = 30;

/// The largest DNS message (RFC 1035, 4.2.2: a 16-bit length).
const MAX_MESSAGE: usize = 65_535;

const DNS_PORT: u16 = 53;

type Zone = HashMap<String, Vec<Ipv4Addr>>;

/// Answers on `listen`, UDP and TCP, from the JSON file `zone`. Each question is a line
/// `{"peer":…,"name":…,"type":…,"rcode":…}`.
pub(super) async fn serve(listen: SocketAddr, zone: PathBuf) -> Result<()> {
    let zone = Arc::new(zone);
    let udp = UdpSocket::bind(listen)
        .await
        .with_context(|| format!("cannot listen on UDP {listen}"))?;
    let tcp = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on TCP {listen}"))?;
    listening(listen);
    tokio::try_join!(serve_udp(udp, Arc::clone(&zone)), serve_tcp(tcp, zone)).map(|_| ())
}

async fn serve_udp(socket: UdpSocket, zone: Arc<PathBuf>) -> Result<()> {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await?;
        // What is no question gets no answer.
        if let Ok(answer) = answer(&buffer[..length], peer, &zone) {
            socket.send_to(&answer, peer).await?;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<PathBuf>) -> Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        let zone = Arc::clone(&zone);
        tokio::spawn(async move {
            // A connection that breaks is the client's affair.
            let _ = serve_connection(stream, peer, &zone).await;
        });
    }
}

async fn serve_connection(mut stream: TcpStream, peer: SocketAddr, zone: &PathBuf) -> Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut question = vec![0; usize::from(length)];
        stream.read_exact(&mut question).await?;
        let answer = answer(&question, peer, zone)?;
        stream.write_u16(u16::try_from(answer.len())?).await?;
        stream.write_all(&answer).await?;
    }
}

/// The answer to one message.
fn answer(question: &[u8], peer: SocketAddr, zone: &PathBuf) -> Result<Vec<u8>> {
    let asked = Message::from_vec(question)?;
    let Some(query) = asked.queries.first().cloned() else {
        bail!("no question");
    };
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    match zone_of(zone).map(|zone| zone.get(&plain(query.name())).cloned()) {
        // As CoreDNS does when its source of names fails.
        Err(_) => reply.metadata.response_code = ResponseCode::ServFail,
        Ok(None) => reply.metadata.response_code = ResponseCode::NXDomain,
        Ok(Some(ips)) if query.query_type() == RecordType::A => {
            for ip in ips {
                let data = RData::A(A(ip));
                reply.add_answer(Record::from_rdata(query.name().clone(), TTL_SECONDS, data));
            }
        }
        // The name exists, this type of it does not.
        Ok(Some(_)) => {}
    }
    println!(
        "{}",
        json!({
            "peer": peer, "name": plain(query.name()), "type": query.query_type().to_string(),
            "rcode": rcode(&reply),
        })
    );
    reply.add_query(query);
    Ok(reply.to_vec()?)
}

fn zone_of(path: &PathBuf) -> Result<Zone> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// The answer code as `dig` writes it: NOERROR, NXDOMAIN.
fn rcode(reply: &Message) -> String {
    format!("{:?}", reply.metadata.response_code).to_ascii_uppercase()
}

/// Lower case, without the dot at the end.
fn plain(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    text.trim_end_matches('.').to_owned()
}

/// Asks and prints `{"local":…,"name":…,"rcode":…,"answers":[…],"latency_seconds":…}`; any
/// answer is a success, NXDOMAIN too.
pub(super) async fn query(name: &str, server: IpAddr, record_type: &str, pace: Pace) -> Result<()> {
    let record_type: RecordType = record_type
        .parse()
        .map_err(|_| anyhow::anyhow!("'{record_type}' is no DNS record type: give A or AAAA"))?;
    for round in 0..pace.count {
        pace.wait(round).await;
        let start = Instant::now();
        let (reply, local) = ask(name, server, record_type, pace).await?;
        println!(
            "{}",
            json!({
                "local": local, "name": name,
                "rcode": rcode(&reply),
                "answers": addresses(&reply),
                "latency_seconds": start.elapsed().as_secs_f64(),
            })
        );
    }
    Ok(())
}

/// The first address of `name`.
pub(super) async fn resolve(name: &str, server: IpAddr, pace: Pace) -> Result<IpAddr> {
    let any_port = Pace {
        source_port: 0,
        ..pace
    };
    let (reply, _) = ask(name, server, RecordType::A, any_port).await?;
    let first = addresses(&reply).first().copied();
    first
        .map(IpAddr::V4)
        .with_context(|| format!("{server} has no address for {name}: {}", rcode(&reply)))
}

async fn ask(
    name: &str,
    server: IpAddr,
    record_type: RecordType,
    pace: Pace,
) -> Result<(Message, SocketAddr)> {
    let socket = UdpSocket::bind(pace.source()).await?;
    socket.connect((server, DNS_PORT)).await?;
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
        .with_context(|| format!("'{name}' is no DNS name"))?;
    message.add_query(Query::query(name, record_type));
    socket.send(&message.to_vec()?).await?;
    let mut buffer = vec![0; MAX_MESSAGE];
    let length = tokio::time::timeout(pace.timeout(), socket.recv(&mut buffer))
        .await
        .with_context(|| format!("no answer from {server}"))??;
    let reply = Message::from_vec(&buffer[..length])?;
    ensure!(
        reply.metadata.id == message.metadata.id,
        "{server} answered another question"
    );
    Ok((reply, socket.local_addr()?))
}

fn addresses(reply: &Message) -> Vec<Ipv4Addr> {
    reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(A(ip)) => Some(*ip),
            _ => None,
        })
        .collect()
}
