//! `nodescope.v1.Probes`: health probes over gRPC.

use std::time::Duration;

use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::state::Observer;
use crate::flow::{Moment, ObjectName};
use crate::insight::probes::{Happening, Report, Target};
use crate::sink::proto::node::probes_server::Probes as ProbesService;
use crate::sink::proto::node::{
    ListProbesRequest, ListProbesResponse, ProbeHappening, ProbeTarget, ProbeTimelineRequest,
    ProbeTimelineResponse,
};

#[tonic::async_trait]
impl ProbesService for Observer {
    async fn list_probes(
        &self,
        _: Request<ListProbesRequest>,
    ) -> Result<Response<ListProbesResponse>, Status> {
        let node = &self.config().node;
        let reports = self.probes().map(|probes| probes.report(Moment::now()));
        let targets = reports.into_iter().flatten();
        Ok(Response::new(ListProbesResponse {
            node_name: node.clone(),
            targets: targets.map(|report| target(node, report)).collect(),
        }))
    }

    async fn probe_timeline(
        &self,
        request: Request<ProbeTimelineRequest>,
    ) -> Result<Response<ProbeTimelineResponse>, Status> {
        let request = request.into_inner();
        if request.service.is_empty() {
            return Err(Status::invalid_argument("no service: name one"));
        }
        let service = ObjectName {
            namespace: request.namespace,
            name: request.service,
        };
        let node = &self.config().node;
        let happenings = self.probes().map(|probes| probes.timeline(&service));
        let happenings = happenings.into_iter().flatten();
        Ok(Response::new(ProbeTimelineResponse {
            happenings: happenings.map(|one| happening(node, &one)).collect(),
        }))
    }
}

fn target(node: &str, report: Report) -> ProbeTarget {
    let kind = report.target.kind().name().to_owned();
    let (namespace, service, pod, container) = match report.target {
        Target::Lb { service, .. } => {
            let service = service.unwrap_or_default();
            (
                service.namespace,
                service.name,
                String::new(),
                String::new(),
            )
        }
        Target::Kubelet { pod, container, .. } => {
            (pod.namespace, String::new(), pod.name, container)
        }
    };
    let last = report.last;
    let health = last.as_ref().and_then(|last| last.health);
    let [successes, failures, timeouts, unknown] = report.results;
    ProbeTarget {
        node_name: node.to_owned(),
        kind,
        namespace,
        service,
        pod,
        container,
        port: u32::from(report.port),
        protocol: report.protocol.to_owned(),
        path: report.path.unwrap_or_default(),
        presence: report.presence.name().to_owned(),
        interval: report.interval.and_then(duration),
        period: report.period.and_then(duration),
        missing: report.missing,
        result: last
            .as_ref()
            .map_or_else(String::new, |last| last.result.name().to_owned()),
        status: last
            .as_ref()
            .map_or_else(String::new, |last| last.status.to_string()),
        latency: last
            .as_ref()
            .and_then(|last| last.latency)
            .and_then(duration),
        successes,
        failures,
        timeouts,
        unknown,
        success_ratio: report.success_ratio,
        last_seen: report.last_seen.map(Timestamp::from),
        local_endpoints: health.map(|health| health.local_endpoints),
        api_local_endpoints: report.api_local_endpoints,
        agrees: report.agrees,
        proxy_healthy: health.and_then(|health| health.service_proxy_healthy),
        weight: last.and_then(|last| last.weight),
    }
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

fn happening(node: &str, one: &Happening) -> ProbeHappening {
    ProbeHappening {
        time: Some(Timestamp::from(one.at)),
        node_name: node.to_owned(),
        what: one.what.name().to_owned(),
        detail: one.what.detail(),
    }
}
