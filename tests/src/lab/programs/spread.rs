//! Datagrams from many source ports, as a workload has them that opens too many connections.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// Sends one datagram from each of the source ports `first` to `last` to each of `to`; prints
/// `{"sent":…}`. Ports that a server here has are left out. One socket at a time, so that no
/// limit on open files is met.
pub(super) fn send(to: &[SocketAddr], first: u16, last: u16) -> Result<()> {
    ensure!(
        0 < first && first <= last,
        "no source ports from {first} to {last}"
    );
    let mut sent: u64 = 0;
    for port in first..=last {
        let socket = match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
            bound => bound.with_context(|| format!("source port {port}"))?,
        };
        for to in to {
            socket
                .send_to(b"spread", to)
                .with_context(|| format!("sending from port {port} to {to}"))?;
            sent += 1;
        }
    }
    println!("{}", json!({"sent": sent}));
    Ok(())
}
