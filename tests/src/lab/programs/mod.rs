//! Programs that run inside namespaces: servers and clients of the lab.
//!
//! Each writes JSON lines to standard output. A server's first line is
//! `{"listening":"ADDRESS"}`; a client's exit code says whether it got its answers.

mod ask;
mod dns;
mod echo;
mod flood;
mod grpc;
mod healthd;
mod http;
mod kubelet;
mod paged;
pub mod plan;
mod prober;
mod raw;
mod spread;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

pub use healthd::PROXY_PORT;

/// A program and its arguments.
#[derive(Debug, Subcommand)]
pub enum Program {
    /// Answer HTTP, telling the client the address it came from
    ServeHttp {
        /// Address to listen on
        #[arg(long, default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
        /// Pad bodies to this size (bytes); a query ?size=N asks for another
        #[arg(long, default_value_t = 0)]
        body_size: usize,
    },
    /// Send back what arrives
    ServeEcho {
        /// Address to listen on for TCP
        #[arg(long)]
        tcp: Option<SocketAddr>,
        /// Address to listen on for UDP
        #[arg(long)]
        udp: Option<SocketAddr>,
    },
    /// Tell of health by gRPC
    ServeGrpcHealth {
        /// Address to listen on
        #[arg(long, default_value = "0.0.0.0:50051")]
        listen: SocketAddr,
        /// A service to know, beside the server itself
        #[arg(long, default_value = "")]
        service: String,
        /// Say NOT_SERVING
        #[arg(long)]
        not_serving: bool,
    },
    /// Answer health checks as kube-proxy does
    #[command(hide = true)]
    NodeHealth {
        /// What to answer; read again at SIGHUP
        #[arg(long)]
        plan: PathBuf,
    },
    /// Probe pods as the kubelet does
    #[command(hide = true)]
    Kubelet {
        /// What to probe; read again at SIGHUP
        #[arg(long)]
        plan: PathBuf,
    },
    /// Probe nodes and steer traffic as the cloud's load balancer does
    #[command(hide = true)]
    LoadBalancer {
        /// What to probe; read again at SIGHUP
        #[arg(long)]
        plan: PathBuf,
    },
    /// Answer DNS from a file
    Dns {
        /// Address to listen on, UDP and TCP
        #[arg(long, default_value = "0.0.0.0:53")]
        listen: SocketAddr,
        /// JSON object of names to lists of IPv4 addresses, read again for each question; without
        /// it the answer is SERVFAIL
        #[arg(long)]
        zone: PathBuf,
    },
    /// Get a URL, each time over a new connection
    HttpGet {
        /// `http://HOST:PORT/PATH`
        url: String,
        /// DNS server to ask for the host's address
        #[arg(long)]
        dns: Option<IpAddr>,
        /// How often, and from where
        #[command(flatten)]
        pace: Pace,
    },
    /// Send over one TCP connection to an echo server and check what comes back
    TcpSend {
        /// Address of the server
        to: SocketAddr,
        /// Bytes at a time
        #[arg(long, default_value_t = 32)]
        size: usize,
        /// How often, and from where
        #[command(flatten)]
        pace: Pace,
    },
    /// Send datagrams to an echo server and wait for each to come back
    UdpSend {
        /// Address of the server
        to: SocketAddr,
        /// Bytes in a datagram
        #[arg(long, default_value_t = 32)]
        size: usize,
        /// Do not wait for answers
        #[arg(long)]
        no_answer: bool,
        /// How often, and from where
        #[command(flatten)]
        pace: Pace,
    },
    /// Send one datagram from each of many source ports
    UdpSpread {
        /// Addresses to send to
        #[arg(required = true)]
        to: Vec<SocketAddr>,
        /// The first source port
        #[arg(long, default_value_t = 1024)]
        first: u16,
        /// The last one
        #[arg(long, default_value_t = 65_535)]
        last: u16,
    },
    /// Ask a DNS server
    DnsQuery {
        /// The name to ask for
        name: String,
        /// The server
        #[arg(long)]
        server: IpAddr,
        /// The type of record
        #[arg(long = "type", default_value = "A")]
        record_type: String,
        /// How often, and from where
        #[command(flatten)]
        pace: Pace,
    },
    /// Send datagrams, each of a 5-tuple of its own
    UdpFlood {
        /// Where to; destination ports go up from this one
        to: SocketAddrV4,
        /// How many
        #[arg(long, default_value_t = 200_000)]
        flows: u32,
        /// Over how many seconds
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
    },
    /// Open TCP connections and close each at once
    TcpBurst {
        /// Where to
        to: SocketAddr,
        /// How many
        #[arg(long, default_value_t = 20_000)]
        count: u32,
        /// How many at a time
        #[arg(long, default_value_t = 32)]
        parallel: u32,
    },
    /// Send frames as they are out of an interface
    RawSend {
        /// The interface
        interface: String,
        /// Frames in hex, Ethernet header first
        #[arg(required = true)]
        frames: Vec<String>,
        /// How many times
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Have the kernel keep each frame in pages, all but so many bytes
        #[arg(long)]
        linear: Option<u16>,
    },
}

/// How often a client sends, and from where.
#[derive(Clone, Copy, Debug, Args)]
pub struct Pace {
    /// Source port; any free one when not given
    #[arg(long, default_value_t = 0)]
    pub source_port: u16,
    /// How many times
    #[arg(long, default_value_t = 1)]
    pub count: u32,
    /// Seconds between two
    #[arg(long, default_value_t = 0.0)]
    pub interval: f64,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 10.0)]
    pub timeout: f64,
}

impl Pace {
    /// The local address to bind.
    fn source(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.source_port))
    }

    /// The time to wait for an answer.
    fn timeout(&self) -> Duration {
        Duration::try_from_secs_f64(self.timeout).unwrap_or(Duration::from_secs(10))
    }

    /// Waits before round `round`, not before the first.
    async fn wait(&self, round: u32) {
        if round > 0 {
            let interval = Duration::try_from_secs_f64(self.interval).unwrap_or_default();
            tokio::time::sleep(interval).await;
        }
    }
}

/// Runs `program` to its end; servers run until they are killed.
pub async fn run(program: Program) -> Result<()> {
    match program {
        Program::ServeHttp { listen, body_size } => http::serve(listen, body_size).await,
        Program::ServeEcho { tcp, udp } => echo::serve(tcp, udp).await,
        Program::ServeGrpcHealth {
            listen,
            service,
            not_serving,
        } => grpc::serve(listen, &service, not_serving).await,
        Program::NodeHealth { plan } => healthd::run(plan).await,
        Program::Kubelet { plan } => kubelet::run(plan).await,
        Program::LoadBalancer { plan } => prober::run(plan).await,
        Program::Dns { listen, zone } => dns::serve(listen, zone).await,
        Program::HttpGet { url, dns, pace } => http::get(&url, dns, pace).await,
        Program::TcpSend { to, size, pace } => echo::tcp_send(to, size, pace).await,
        Program::UdpSend {
            to,
            size,
            no_answer,
            pace,
        } => echo::udp_send(to, size, !no_answer, pace).await,
        Program::UdpSpread { to, first, last } => spread::send(&to, first, last),
        Program::DnsQuery {
            name,
            server,
            record_type,
            pace,
        } => dns::query(&name, server, &record_type, pace).await,
        Program::UdpFlood { to, flows, seconds } => flood::udp(to, flows, seconds).await,
        Program::TcpBurst {
            to,
            count,
            parallel,
        } => flood::tcp(to, count, parallel).await,
        Program::RawSend {
            interface,
            frames,
            count,
            linear,
        } => raw::send(&interface, &frames, count, linear),
    }
}

/// Says that a server listens.
fn listening(address: SocketAddr) {
    println!("{}", serde_json::json!({"listening": address}));
}
