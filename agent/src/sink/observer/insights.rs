//! The services `nodescope.v1.Services` and `nodescope.v1.Checks`.

use tonic::{Request, Response, Status};

use crate::insight::checks::FULL_PERCENT;
use crate::insight::here::Here;
use crate::insight::services::{Agreement, Report};
use crate::sink::proto::node as proto;
use crate::sink::proto::node::checks_server::Checks;
use crate::sink::proto::node::services_server::Services;

/// Answers from what the agent knows of its node.
#[derive(Clone)]
pub struct Insights(Here);

impl Insights {
    /// From this.
    pub fn new(here: Here) -> Self {
        Self(here)
    }
}

#[tonic::async_trait]
impl Services for Insights {
    async fn list(
        &self,
        _: Request<proto::ListServicesRequest>,
    ) -> Result<Response<proto::ListServicesResponse>, Status> {
        Ok(Response::new(proto::ListServicesResponse {
            node: self.0.node().to_owned(),
            services: self.0.services().iter().map(report).collect(),
        }))
    }
}

#[tonic::async_trait]
impl Checks for Insights {
    async fn run(
        &self,
        request: Request<proto::RunChecksRequest>,
    ) -> Result<Response<proto::RunChecksResponse>, Status> {
        let request = request.into_inner();
        let full = match request.full_percent {
            0 => FULL_PERCENT,
            percent => percent,
        };
        let findings = self.0.check(&request.names, full);
        let findings = findings.map_err(Status::invalid_argument)?;
        let findings = findings
            .into_iter()
            .map(|(check, finding)| proto::CheckFinding {
                name: check.name.to_owned(),
                verdict: finding.verdict.word().to_owned(),
                evidence: finding.evidence,
                each_node: check.each_node,
            });
        Ok(Response::new(proto::RunChecksResponse {
            node: self.0.node().to_owned(),
            findings: findings.collect(),
        }))
    }
}

fn report(report: &Report) -> proto::ServiceReport {
    let service = &report.service;
    let seen = &report.observed;
    let ports = service.ports.iter().map(|port| match port.node_port {
        Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
        None => format!("{}/{}", port.port, port.protocol),
    });
    proto::ServiceReport {
        namespace: service.name.namespace.clone(),
        name: service.name.name.clone(),
        r#type: service.kind.clone(),
        cluster_ips: service
            .cluster_ips
            .iter()
            .map(ToString::to_string)
            .collect(),
        external_ips: service
            .external_ips
            .iter()
            .map(ToString::to_string)
            .collect(),
        ports: ports.collect(),
        policy: report.policy.unwrap_or_default().to_owned(),
        health_check_node_port: u32::from(service.health_check_node_port.unwrap_or_default()),
        ready: report.ready,
        ready_here: report.ready_here,
        seen: Some(proto::ServiceTraffic {
            external_kept: seen.external_kept,
            external_lost: seen.external_lost,
            second_hop: seen.second_hop,
            in_cluster: seen.in_cluster,
            in_cluster_vip: seen.in_cluster_vip,
            no_backend: seen.no_backend,
        }),
        client_ip: report.client_ip().to_owned(),
        agrees: match report.agrees() {
            Agreement::Yes => "yes",
            Agreement::No => "no",
            Agreement::Unknown => "unknown",
        }
        .to_owned(),
        evidence: seen.evidence.iter().cloned().collect(),
        health: report.health.map(|health| proto::HealthAnswer {
            status: u32::from(health.status),
            local_endpoints: health.local_endpoints,
        }),
    }
}
