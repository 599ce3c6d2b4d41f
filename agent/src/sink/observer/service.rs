//! The gRPC services: `observer.Observer`, `peer.Peer`, `nodescope.v1.Node`.

use std::pin::Pin;
use std::time::SystemTime;

use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::filter::Filters;
use super::select::Selection;
use super::state::Observer;
use super::stream;
use crate::sink::proto::node::node_server::Node as NodeService;
use crate::sink::proto::node::{DescribeRequest, DescribeResponse};
use crate::sink::proto::observer::observer_server::Observer as ObserverService;
use crate::sink::proto::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse,
};
use crate::sink::proto::peer::peer_server::Peer as PeerService;
use crate::sink::proto::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest};
use crate::sink::proto::relay::NodeState;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Version that the server gives.
pub const VERSION: &str = concat!("nodescope ", env!("CARGO_PKG_VERSION"));

#[tonic::async_trait]
impl ObserverService for Observer {
    type GetFlowsStream = ReceiverStream<Result<GetFlowsResponse, Status>>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        let selection = Selection::of(&request)?;
        let filters = Filters::compile(&request)?;
        let receiver = stream::start(self.clone(), selection, filters);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented(
            "nodescope has no agent events: ask for flows",
        ))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented(
            "nodescope has no debug events: ask for flows",
        ))
    }

    async fn get_nodes(
        &self,
        _: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        let (num_flows, max_flows, seen_flows) = self.counts();
        let node = Node {
            name: self.config().node.clone(),
            version: VERSION.to_owned(),
            address: self.config().address.clone(),
            state: NodeState::NodeConnected.into(),
            uptime_ns: self.uptime_ns(),
            num_flows,
            max_flows,
            seen_flows,
            ..Node::default()
        };
        Ok(Response::new(GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let namespace = |namespace| Namespace {
            namespace,
            ..Namespace::default()
        };
        let namespaces = self
            .namespaces(SystemTime::now())
            .into_iter()
            .map(namespace)
            .collect();
        Ok(Response::new(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        let (num_flows, max_flows, seen_flows) = self.counts();
        Ok(Response::new(ServerStatusResponse {
            num_flows,
            max_flows,
            seen_flows,
            uptime_ns: self.uptime_ns(),
            version: VERSION.to_owned(),
            flows_rate: self.rate(SystemTime::now()),
            ..ServerStatusResponse::default()
        }))
    }
}

impl Observer {
    /// Nanoseconds since the start; 584 years fit.
    fn uptime_ns(&self) -> u64 {
        u64::try_from(self.uptime().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[tonic::async_trait]
impl PeerService for Observer {
    type NotifyStream = Answers<ChangeNotification>;

    /// This node, then nothing more: the stream stays open until either side goes.
    async fn notify(
        &self,
        _: Request<NotifyRequest>,
    ) -> Result<Response<Self::NotifyStream>, Status> {
        let this = ChangeNotification {
            name: self.config().node.clone(),
            address: self.config().address.clone(),
            r#type: ChangeNotificationType::PeerAdded.into(),
            tls: None,
        };
        let mut closing = self.watch_closing();
        let until_closing = async move {
            // An error means that the server is gone, which is an end as well.
            let _ = closing.wait_for(|closing| *closing).await;
        };
        let stream = futures::stream::iter([Ok(this)])
            .chain(futures::stream::pending())
            .take_until(until_closing);
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl NodeService for Observer {
    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(Observer::describe(self)))
    }
}
