//! The part of the kubelet that the API server asks for the ports of pods.
//!
//! It listens on the node's address in the API server's own namespace, whose loopback has that
//! address, and connects into the node's.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use crate::apiserver::forward::{self, Dial};
use crate::apiserver::status::Status;
use crate::apiserver::tls::Tls;
use crate::lab::{Netns, connect};

/// Where a kubelet listens unless its node says otherwise.
const PORT: u16 = 10_250;

/// How long a kubelet of an earlier lab may take to let go of the address.
const FREE_TIMEOUT: Duration = Duration::from_secs(30);

/// A kubelet of one node; it ends when this is dropped.
pub(super) struct Kubelet {
    // None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Kubelet {
    /// Starts the kubelet of a node with this address, for the API server in `control`.
    pub(super) fn start(control: &Netns, address: Ipv4Addr, node: Netns) -> Result<Self> {
        control.ip(&[format!("addr replace {address}/32 dev lo")])?;
        let listener = listen(control, address)?;
        let tls = Arc::new(Tls::new(&address.to_string())?);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lab-kubelet")
            .enable_all()
            .build()
            .context("starting the kubelet's runtime")?;
        let dial: Dial = Arc::new(move |port| connect(&node, port));
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                return;
            };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, tls.clone(), dial.clone()));
            }
        });
        Ok(Self {
            runtime: Some(runtime),
        })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Not waited for: a lab may be dropped inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn listen(control: &Netns, address: Ipv4Addr) -> Result<TcpListener> {
    let start = Instant::now();
    loop {
        match control.enter(|| TcpListener::bind((address, PORT)))? {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && start.elapsed() < FREE_TIMEOUT =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            bound => {
                let listener =
                    bound.with_context(|| format!("listening on {address}:{PORT} as a kubelet"))?;
                listener.set_nonblocking(true)?;
                return Ok(listener);
            }
        }
    }
}

async fn serve(stream: TcpStream, tls: Arc<Tls>, dial: Dial) {
    // A client that does not get on is the API server's to complain about.
    let Ok(stream) = tls.acceptor().accept(stream).await else {
        return;
    };
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let answer = answer(request.map(Body::new), dial.clone());
        async move { Ok::<_, Infallible>(answer) }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

fn answer(request: Request<Body>, dial: Dial) -> Response<Body> {
    let forwarded = || {
        if !request.uri().path().starts_with("/portForward/") {
            return Err(Status::no_such_path());
        }
        forward::ports(request.uri().query().unwrap_or_default())
    };
    let answer = match forwarded() {
        Ok(ports) => forward::answer(request, ports, dial, std::future::pending()),
        Err(refusal) => Err(refusal),
    };
    answer.unwrap_or_else(|refusal| refusal.response())
}
