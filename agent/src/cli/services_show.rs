//! Services as a table and as JSON.

use serde_json::{Value, json as object};

use super::services::Joined;
use super::table::Table;
use crate::sink::proto::node::{HealthAnswer, ServiceReport};

const HEADER: [&str; 15] = [
    "NAMESPACE",
    "NAME",
    "TYPE",
    "POLICY",
    "CLIENT-IP",
    "AGREES",
    "OUTSIDE(KEPT/LOST)",
    "SECOND-HOP",
    "INSIDE",
    "INSIDE-BY-VIP",
    "READY",
    "HEALTH",
    "ADDRESSES",
    "PORTS",
    "NO-BACKEND",
];

/// Columns that only `-o wide` has.
const WIDE: usize = 3;

/// A line a service; wide ones with the newest connections of each node below.
pub fn table(services: &[Joined], wide: bool) -> String {
    let shown = HEADER.len() - if wide { 0 } else { WIDE };
    let rows: Vec<Vec<String>> = services
        .iter()
        .filter_map(|service| Some(row(service, service.first()?)))
        .collect();
    let mut table = Table::default();
    rows.iter().for_each(|row| table.fit(&row[..shown]));
    let mut text = table.line(&HEADER[..shown]) + "\n";
    for (row, service) in rows.iter().zip(services) {
        text.push_str(&table.line(&row[..shown]));
        text.push('\n');
        if wide {
            for (node, report) in &service.nodes {
                for line in &report.evidence {
                    text.push_str(&format!("  {node}: {line}\n"));
                }
            }
        }
    }
    if rows.is_empty() {
        text.push_str("no service faces outwards, and none was used: --all shows the rest\n");
    }
    text
}

fn row(service: &Joined, first: &ServiceReport) -> Vec<String> {
    let or_none = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    let addresses = first.cluster_ips.iter().chain(&first.external_ips);
    let health: Vec<String> = service
        .nodes
        .iter()
        .filter_map(|(node, report)| Some(format!("{node} {}", answer(report.health?))))
        .collect();
    vec![
        first.namespace.clone(),
        first.name.clone(),
        first.r#type.clone(),
        or_none(first.policy.clone()),
        service.client_ip().to_owned(),
        service.agrees().to_owned(),
        format!(
            "{}/{}",
            service.sum(|seen| seen.external_kept),
            service.sum(|seen| seen.external_lost)
        ),
        service.sum(|seen| seen.second_hop).to_string(),
        service.sum(|seen| seen.in_cluster).to_string(),
        service.sum(|seen| seen.in_cluster_vip).to_string(),
        first.ready.to_string(),
        or_none(health.join(", ")),
        or_none(addresses.cloned().collect::<Vec<_>>().join(",")),
        or_none(first.ports.join(",")),
        service.sum(|seen| seen.no_backend).to_string(),
    ]
}

/// `200 (2 local)`.
fn answer(health: HealthAnswer) -> String {
    match health.local_endpoints {
        Some(local) => format!("{} ({local} local)", health.status),
        None => health.status.to_string(),
    }
}

/// One object.
pub fn json(service: &Joined) -> Value {
    let Some(first) = service.first() else {
        return Value::Null;
    };
    let nodes: Vec<Value> = service
        .nodes
        .iter()
        .map(|(node, report)| node_json(node, report))
        .collect();
    object!({
        "namespace": first.namespace,
        "name": first.name,
        "type": first.r#type,
        "cluster_ips": first.cluster_ips,
        "external_ips": first.external_ips,
        "ports": first.ports,
        "policy": (!first.policy.is_empty()).then_some(&first.policy),
        "health_check_node_port":
            (first.health_check_node_port > 0).then_some(first.health_check_node_port),
        "ready": first.ready,
        "client_ip": service.client_ip(),
        "agrees": service.agrees(),
        "external_kept": service.sum(|seen| seen.external_kept),
        "external_lost": service.sum(|seen| seen.external_lost),
        "second_hop": service.sum(|seen| seen.second_hop),
        "in_cluster": service.sum(|seen| seen.in_cluster),
        "in_cluster_vip": service.sum(|seen| seen.in_cluster_vip),
        "no_backend": service.sum(|seen| seen.no_backend),
        "nodes": nodes,
    })
}

fn node_json(node: &str, report: &ServiceReport) -> Value {
    let seen = report.seen.unwrap_or_default();
    object!({
        "node": node,
        "ready_here": report.ready_here,
        "client_ip": report.client_ip,
        "agrees": report.agrees,
        "external_kept": seen.external_kept,
        "external_lost": seen.external_lost,
        "second_hop": seen.second_hop,
        "in_cluster": seen.in_cluster,
        "in_cluster_vip": seen.in_cluster_vip,
        "no_backend": seen.no_backend,
        "evidence": report.evidence,
        "health": report.health.map(|health| object!({
            "status": health.status,
            "local_endpoints": health.local_endpoints,
        })),
    })
}
