//! A server on a unix socket or on TCP, for as long as a test asks it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::flow::Flow;
use crate::sink::fixture::{at, masqueraded, ping, pod_to_pod};
use crate::sink::observer::serve::{self, Error};
use crate::sink::observer::{Certificates, Config, Network, Observer};
use crate::sink::proto::node::DescribeResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;
use crate::sink::proto::observer::observer_client::ObserverClient;
use crate::sink::proto::observer::{GetFlowsRequest, GetFlowsResponse};

pub(super) type Tested = anyhow::Result<()>;

/// Nothing here takes long; what hangs has to fail.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and what ends it.
pub(super) struct Served {
    pub(super) observer: Observer,
    /// The unix socket, where it serves one.
    pub(super) socket: PathBuf,
    /// The address, where it serves on TCP.
    pub(super) address: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
    _directory: tempfile::TempDir,
}

/// An observer of the node `node-1`.
pub(super) fn observer(capacity: usize, network: Option<Network>) -> Observer {
    let config = Config {
        node: "node-1".into(),
        network,
        capacity,
    };
    let describe = || DescribeResponse {
        name: "node-1".into(),
        ..DescribeResponse::default()
    };
    Observer::new(config, describe)
}

impl Served {
    /// On a unix socket.
    pub(super) async fn start(capacity: usize) -> anyhow::Result<Self> {
        Self::start_with(observer(capacity, None)).await
    }

    /// The same of an observer that is set up already.
    pub(super) async fn start_with(observer: Observer) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("run/agent.sock");
        let listener = serve::bind(&socket).await?;
        let (stop, stopped) = oneshot::channel();
        let (path, server) = (socket.clone(), observer.clone());
        let task = tokio::spawn(async move {
            serve::serve_unix(listener, &path, server, until(stopped)).await
        });
        Ok(Self {
            observer,
            socket,
            address: None,
            stop,
            task,
            _directory: directory,
        })
    }

    /// On a port of loopback.
    pub(super) async fn start_tcp(tls: Option<Arc<Certificates>>) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let listener = serve::bind_tcp((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let address = listener.local_addr()?;
        let network = Network {
            listen: address,
            own: None,
            tls,
        };
        let observer = observer(16, Some(network));
        let (stop, stopped) = oneshot::channel();
        let server = observer.clone();
        let task =
            tokio::spawn(async move { serve::serve_tcp(listener, server, until(stopped)).await });
        Ok(Self {
            observer,
            socket: directory.path().join("none"),
            address: Some(address),
            stop,
            task,
            _directory: directory,
        })
    }

    pub(super) async fn channel(&self) -> anyhow::Result<Channel> {
        let uri = match self.address {
            Some(address) => format!("http://{address}"),
            None => format!("unix://{}", self.socket.display()),
        };
        Ok(Endpoint::from_shared(uri)?.connect().await?)
    }

    pub(super) async fn client(&self) -> anyhow::Result<ObserverClient<Channel>> {
        Ok(ObserverClient::new(self.channel().await?))
    }

    /// The times of the flows that a request gets, until the stream ends.
    pub(super) async fn ask(&self, request: GetFlowsRequest) -> anyhow::Result<Vec<u64>> {
        let mut stream = self.client().await?.get_flows(request).await?.into_inner();
        let mut seconds = Vec::new();
        while let Some(response) = stream.message().await? {
            seconds.push(second(&response)?);
        }
        Ok(seconds)
    }

    pub(super) async fn stop(self) -> Tested {
        // If the server ended by itself the next line shows how.
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.task).await???;
        assert!(!self.socket.exists());
        Ok(())
    }
}

async fn until(stopped: oneshot::Receiver<()>) {
    // A sender that is gone stops the server too.
    let _ = stopped.await;
}

/// The time of a flow.
pub(super) fn second(response: &GetFlowsResponse) -> anyhow::Result<u64> {
    match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => {
            Ok(u64::try_from(flow.time.context("no time")?.seconds)?)
        }
        other => bail!("no flow: {other:?}"),
    }
}

/// A flow of that second: pod to pod, masqueraded, and a ping in turn.
pub(super) fn flow(second: u64) -> Arc<Flow> {
    let mut flow = match second % 3 {
        0 => pod_to_pod(),
        1 => masqueraded(),
        _ => ping(),
    };
    flow.time = at(second);
    Arc::new(flow)
}
