//! Flows as they are asked for, and the socket.

use anyhow::{Context as _, bail};
use tonic::Code;

use super::served::{PATIENCE, Served, Tested, flow, second};
use crate::sink::fixture::at;
use crate::sink::observer::serve::{self, Error};
use crate::sink::proto::flow::{FlowFilter, LostEventSource};
use crate::sink::proto::observer::get_flows_response::ResponseTypes;
use crate::sink::proto::observer::{GetAgentEventsRequest, GetDebugEventsRequest, GetFlowsRequest};
use crate::sink::proto::peer::NotifyRequest;
use crate::sink::proto::peer::peer_client::PeerClient;

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
    assert_eq!(served.observer.missed(), lost);
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
    let Err(status) = client.get_debug_events(GetDebugEventsRequest {}).await else {
        bail!("served debug events")
    };
    assert_eq!(status.code(), Code::Unimplemented);
    drop(client);
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
