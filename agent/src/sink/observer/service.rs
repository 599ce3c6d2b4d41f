//! The gRPC services `observer.Observer` and `nodescope.v1.Node`.

use std::pin::Pin;
use std::time::SystemTime;

use futures::Stream;
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
    Tls,
};
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
        let own = self.own_peer();
        let node = Node {
            name: self.config().node.clone(),
            version: VERSION.to_owned(),
            address: own.address,
            tls: Some(Tls {
                enabled: own.server_name.is_some(),
                server_name: own.server_name.unwrap_or_default(),
            }),
            state: NodeState::NodeConnected.into(),
            uptime_ns: self.uptime_ns(),
            num_flows,
            max_flows,
            seen_flows,
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
            // Behind this server is its own node.
            num_connected_nodes: Some(1),
            num_unavailable_nodes: Some(0),
            unavailable_nodes: Vec::new(),
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
impl NodeService for Observer {
    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(Observer::describe(self)))
    }
}
