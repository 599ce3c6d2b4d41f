//! The service `nodescope.v1.Drops`.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::engine;
use crate::flow::ObjectName;
use crate::insight::drops::{Losses, Lost};
use crate::sink::names;
use crate::sink::proto::node as proto;
use crate::sink::proto::node::drops_server::Drops;

/// Answers from what the agent keeps of losses.
#[derive(Clone, Debug)]
pub struct DropsService {
    node: String,
    losses: Losses,
    statuses: watch::Receiver<Arc<engine::Status>>,
}

impl DropsService {
    /// For the node of this name.
    pub fn new(
        node: String,
        losses: Losses,
        statuses: watch::Receiver<Arc<engine::Status>>,
    ) -> Self {
        Self {
            node,
            losses,
            statuses,
        }
    }

    fn report(&self, lost: Lost) -> proto::DropReport {
        let name = |name: Option<ObjectName>| name.map(|name| name.to_string());
        proto::DropReport {
            node: self.node.clone(),
            reason: lost.drop.reason.to_string(),
            hook: lost.drop.hook(),
            direction: names::direction(lost.drop.direction).to_owned(),
            function: lost.drop.function.as_deref().unwrap_or_default().to_owned(),
            protocol: lost.protocol.to_string(),
            source_pod: name(lost.source_pod).unwrap_or_default(),
            source: lost.source.to_string(),
            destination_pod: name(lost.destination_pod).unwrap_or_default(),
            destination: lost.destination.to_string(),
            destination_port: u32::from(lost.port),
            service: name(lost.service).unwrap_or_default(),
            packets: lost.counts.packets,
            bytes: lost.counts.bytes,
            first: Some(lost.first.into()),
            last: Some(lost.last.into()),
        }
    }
}

#[tonic::async_trait]
impl Drops for DropsService {
    async fn list(
        &self,
        _: Request<proto::ListDropsRequest>,
    ) -> Result<Response<proto::ListDropsResponse>, Status> {
        let (lost, forgotten) = self.losses.all();
        let status = self.statuses.borrow().clone();
        Ok(Response::new(proto::ListDropsResponse {
            node: self.node.clone(),
            off: status.drops.off.clone().unwrap_or_default(),
            reasons: status.drops.reasons,
            drops: lost.into_iter().map(|one| self.report(one)).collect(),
            forgotten,
        }))
    }
}
