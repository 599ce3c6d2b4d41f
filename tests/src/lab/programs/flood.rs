//! Many short conversations in little time, with an exact count of what was sent.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use serde_json::json;
use tokio::net::{TcpStream, UdpSocket};

/// Source ports used with each destination port.
const SOURCES: u32 = 60_000;
const FIRST_SOURCE: u16 = 2_000;
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// Sends `flows` datagrams to `to`, each of a 5-tuple of its own, evenly over `seconds`: source
/// ports from 2000 on, destination ports from that of `to` on. Prints how many were sent.
pub(super) async fn udp(to: SocketAddrV4, flows: u32, seconds: f64) -> Result<()> {
    let from = source_to(to).await?;
    // The socket of this protocol takes IP headers as they are (raw(7)).
    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
        .context("a raw socket: run as root")?;
    let rate = f64::from(flows) / seconds.max(0.001);
    let start = Instant::now();
    for flow in 0..flows {
        while f64::from(flow) > start.elapsed().as_secs_f64() * rate {
            std::thread::sleep(Duration::from_micros(500));
        }
        let port = u32::from(to.port()) + flow / SOURCES;
        let packet = datagram(
            SocketAddrV4::new(from, FIRST_SOURCE + u16::try_from(flow % SOURCES)?),
            SocketAddrV4::new(*to.ip(), u16::try_from(port).context("too many flows")?),
        );
        sendto(&raw, &packet, SendFlags::empty(), &to)
            .with_context(|| format!("after {flow} datagrams"))?;
    }
    let took = start.elapsed().as_secs_f64();
    println!("{}", json!({"sent": flows, "seconds": took}));
    Ok(())
}

/// The address that the kernel chooses for packets to `to`.
async fn source_to(to: SocketAddrV4) -> Result<Ipv4Addr> {
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    probe.connect(to).await?;
    match probe.local_addr()? {
        SocketAddr::V4(address) => Ok(*address.ip()),
        SocketAddr::V6(address) => bail!("{address} is no IPv4 address"),
    }
}

/// An IPv4 packet (RFC 791) with an empty UDP datagram (RFC 768) without checksum; the kernel
/// fills in the header's.
fn datagram(from: SocketAddrV4, to: SocketAddrV4) -> [u8; IPV4_HEADER + UDP_HEADER] {
    let mut packet = [0; IPV4_HEADER + UDP_HEADER];
    packet[0] = 0x45;
    packet[3] = (IPV4_HEADER + UDP_HEADER) as u8;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[25] = UDP_HEADER as u8;
    packet
}

/// Opens `count` connections to `to` and closes each at once, `parallel` at a time; prints how
/// many there were.
pub(super) async fn tcp(to: SocketAddr, count: u32, parallel: u32) -> Result<()> {
    let next = Arc::new(AtomicU32::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..parallel {
        let next = Arc::clone(&next);
        clients.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                TcpStream::connect(to).await?;
            }
            std::io::Result::Ok(())
        });
    }
    while let Some(outcome) = clients.join_next().await {
        outcome?.with_context(|| format!("connecting to {to}"))?;
    }
    println!("{}", json!({"connections": count}));
    Ok(())
}
