//! The server on a unix socket, asked by a client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::serve::{self, Error};
use super::state::{Config, Observer};
use crate::flow::Flow;
use crate::sink::fixture::{at, masqueraded, ping, pod_to_pod};
use crate::sink::proto::flow::{FlowFilter, LostEventSource};
use crate::sink::proto::node::node_client::NodeClient;
use crate::sink::proto::node::{DescribeRequest, DescribeResponse};
use crate::sink::proto::observer::get_flows_response::ResponseTypes;
use crate::sink::proto::observer::observer_client::ObserverClient;
use crate::sink::proto::observer::{
    GetAgentEventsRequest, GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest,
    GetNodesRequest, ServerStatusRequest,
};
use crate::sink::proto::peer::NotifyRequest;
use crate::sink::proto::peer::peer_client::PeerClient;

type Tested = anyhow::Result<()>;

/// Nothing here takes long; what hangs has to fail.
const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    observer: Observer,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
    _directory: tempfile::TempDir,
}

impl Served {
    async fn start(capacity: usize) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("run/agent.sock");
        let config = Config {
            node: "node-1".into(),
            address: "10.224.0.4".into(),
            capacity,
        };
        let describe = || DescribeResponse {
            name: "node-1".into(),
            ..DescribeResponse::default()
        };
        let observer = Observer::new(config, describe);
        let listener = serve::bind(&socket).await?;
        let (stop, stopped) = oneshot::channel();
        let (path, server) = (socket.clone(), observer.clone());
        let task = tokio::spawn(async move {
            let shutdown = async {
                // A sender that is gone stops the server too.
                let _ = stopped.await;
            };
            serve::serve_unix(listener, &path, server, shutdown).await
        });
        Ok(Self {
            observer,
            socket,
            stop,
            task,
            _directory: directory,
        })
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        let uri = format!("unix://{}", self.socket.display());
        Ok(Endpoint::from_shared(uri)?.connect().await?)
    }

    async fn client(&self) -> anyhow::Result<ObserverClient<Channel>> {
        Ok(ObserverClient::new(self.channel().await?))
    }

    /// The connections of the flows that a request gets, until the stream ends.
    async fn ask(&self, request: GetFlowsRequest) -> anyhow::Result<Vec<u64>> {
        let mut stream = self.client().await?.get_flows(request).await?.into_inner();
        let mut seconds = Vec::new();
        while let Some(response) = stream.message().await? {
            seconds.push(second(&response)?);
        }
        Ok(seconds)
    }

    async fn stop(self) -> Tested {
        // If the server ended by itself the next line shows how.
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.task).await???;
        assert!(!self.socket.exists());
        Ok(())
    }
}

fn second(response: &GetFlowsResponse) -> anyhow::Result<u64> {
    match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => {
            Ok(u64::try_from(flow.time.context("no time")?.seconds)?)
        }
        other => bail!("no flow: {other:?}"),
    }
}

fn flow(second: u64) -> Arc<Flow> {
    let mut flow = match second % 3 {
        0 => pod_to_pod(),
        1 => masqueraded(),
        _ => ping(),
    };
    flow.time = at(second);
    Arc::new(flow)
}

#[tokio::test]
async fn answers_with_the_newest_the_first_and_the_filtered() -> Tested {
    let served = Served::start(16).await?;
    served.observer.push((0..9).map(flow));
    let request = GetFlowsRequest {
        number: 2,
        ..GetFlowsRequest::default()
    };
    assert_eq!(served.ask(request.clone()).await?, [7, 8]);
    assert_eq!(
        served
            .ask(GetFlowsRequest {
                first: true,
                ..request.clone()
            })
            .await?,
        [0, 1]
    );
    let pings = FlowFilter {
        protocol: vec!["icmp".into()],
        ..FlowFilter::default()
    };
    let request = GetFlowsRequest {
        whitelist: vec![pings],
        ..request
    };
    assert_eq!(served.ask(request).await?, [5, 8]);
    let since = GetFlowsRequest {
        since: Some(at(3).into()),
        until: Some(at(5).into()),
        ..GetFlowsRequest::default()
    };
    assert_eq!(served.ask(since).await?, [3, 4, 5]);
    served.stop().await
}

#[tokio::test]
async fn follows_what_comes_and_ends_past_until() -> Tested {
    let served = Served::start(16).await?;
    served.observer.push((0..3).map(flow));
    let request = GetFlowsRequest {
        number: 1,
        follow: true,
        until: Some(at(4).into()),
        ..GetFlowsRequest::default()
    };
    let mut stream = served
        .client()
        .await?
        .get_flows(request)
        .await?
        .into_inner();
    assert_eq!(second(&stream.message().await?.context("ended")?)?, 2);
    served.observer.push((3..6).map(flow));
    assert_eq!(second(&stream.message().await?.context("ended")?)?, 3);
    assert_eq!(second(&stream.message().await?.context("ended")?)?, 4);
    assert!(stream.message().await?.is_none());
    served.stop().await
}

#[tokio::test]
async fn tells_a_slow_reader_what_it_missed() -> Tested {
    const CAPACITY: u64 = 8;
    // More than all buffers between server and reader hold.
    const FLOWS: u64 = 20_000;
    let served = Served::start(usize::try_from(CAPACITY)?).await?;
    let request = GetFlowsRequest {
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut stream = served
        .client()
        .await?
        .get_flows(request)
        .await?
        .into_inner();
    let pushing = served.observer.clone();
    for second in 0..FLOWS {
        pushing.push([flow(second)]);
        // Lets the stream fill its buffers.
        tokio::task::yield_now().await;
    }
    let (mut got, mut lost) = (0, 0);
    while got + lost < FLOWS {
        let response = tokio::time::timeout(PATIENCE, stream.message()).await??;
        match response.context("ended")?.response_types {
            Some(ResponseTypes::Flow(_)) => got += 1,
            Some(ResponseTypes::LostEvents(event)) => {
                assert_eq!(event.source(), LostEventSource::HubbleRingBuffer);
                lost += event.num_events_lost;
            }
            other => bail!("neither a flow nor lost ones: {other:?}"),
        }
    }
    assert!(lost > 0 && got >= CAPACITY, "got {got}, lost {lost}");
    assert_eq!(got + lost, FLOWS);
    served.stop().await
}

#[tokio::test]
async fn refuses_what_cannot_be() -> Tested {
    let served = Served::start(4).await?;
    let mut client = served.client().await?;
    let both = GetFlowsRequest {
        first: true,
        follow: true,
        ..GetFlowsRequest::default()
    };
    let bad = FlowFilter {
        protocol: vec!["smoke".into()],
        ..FlowFilter::default()
    };
    let bad = GetFlowsRequest {
        whitelist: vec![bad],
        ..GetFlowsRequest::default()
    };
    for request in [both, bad] {
        let Err(status) = client.get_flows(request).await else {
            bail!("accepted")
        };
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let Err(status) = client.get_agent_events(GetAgentEventsRequest {}).await else {
        bail!("served agent events")
    };
    assert_eq!(status.code(), Code::Unimplemented);
    drop(client);
    served.stop().await
}

#[tokio::test]
async fn says_how_it_is() -> Tested {
    let served = Served::start(4).await?;
    let mut flows: Vec<_> = (0..6).map(flow).collect();
    let mut recent = pod_to_pod();
    recent.time = std::time::SystemTime::now();
    flows.push(Arc::new(recent));
    served.observer.push(flows);
    let mut client = served.client().await?;
    let status = client
        .server_status(ServerStatusRequest {})
        .await?
        .into_inner();
    assert_eq!(
        (status.num_flows, status.max_flows, status.seen_flows),
        (4, 4, 7)
    );
    assert!(
        status.uptime_ns > 0 && status.flows_rate > 0.0,
        "{status:?}"
    );
    let nodes = client
        .get_nodes(GetNodesRequest {})
        .await?
        .into_inner()
        .nodes;
    assert_eq!(
        nodes.iter().map(|node| &*node.name).collect::<Vec<_>>(),
        ["node-1"]
    );
    let namespaces = client
        .get_namespaces(GetNamespacesRequest {})
        .await?
        .into_inner();
    let names: Vec<_> = namespaces
        .namespaces
        .iter()
        .map(|one| &*one.namespace)
        .collect();
    assert_eq!(names, ["shop"]);
    let channel = served.channel().await?;
    let node = NodeClient::new(channel.clone())
        .describe(DescribeRequest {})
        .await?;
    assert_eq!(node.into_inner().name, "node-1");
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let service = "hubble.server.Observer".to_owned();
    let check = tonic_health::pb::HealthCheckRequest { service };
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
    assert_eq!(health.check(check).await?.into_inner().status(), serving);
    drop((client, health));
    served.stop().await
}

#[tokio::test]
async fn streams_end_when_the_server_stops() -> Tested {
    let served = Served::start(4).await?;
    let request = GetFlowsRequest {
        follow: true,
        ..GetFlowsRequest::default()
    };
    let mut flows = served
        .client()
        .await?
        .get_flows(request)
        .await?
        .into_inner();
    let channel = served.channel().await?;
    let mut peers = PeerClient::new(channel)
        .notify(NotifyRequest {})
        .await?
        .into_inner();
    assert_eq!(peers.message().await?.context("no peer")?.name, "node-1");
    served.stop().await?;
    assert!(peers.message().await?.is_none());
    assert!(flows.message().await?.is_none());
    Ok(())
}

#[tokio::test]
async fn replaces_a_dead_socket_but_not_a_live_one_nor_a_file() -> Tested {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("agent.sock");
    drop(serve::bind(&socket).await?);
    assert!(socket.exists());
    let live = serve::bind(&socket).await?;
    let mode = std::fs::metadata(&socket)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(serve::bind(&socket).await, Err(Error::InUse(_))));
    drop(live);
    std::fs::remove_file(&socket)?;
    std::fs::write(&socket, "")?;
    assert!(matches!(
        serve::bind(&socket).await,
        Err(Error::NotASocket(_))
    ));
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 1);
    Ok(())
}
