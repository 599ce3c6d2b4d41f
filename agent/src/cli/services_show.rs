//! Services as a table and as JSON.

use serde_json::{Value, json as object};

use super::fit::Column;
use super::page::{Entry, Page, or_none};
use super::row::Tone;
use super::services::Joined;
use crate::sink::proto::node::{HealthAnswer, ServiceReport};

const COLUMNS: [Column; 15] = [
    Column::new("NAMESPACE").cut(10).leave(10),
    Column::new("NAME").cut(14),
    Column::new("TYPE").leave(7),
    Column::new("POLICY"),
    Column::new("CLIENT-IP"),
    Column::new("AGREES"),
    Column::new("OUTSIDE(KEPT/LOST)").leave(9),
    Column::new("SECOND-HOP").leave(6),
    Column::new("INSIDE").leave(5),
    Column::new("INSIDE-BY-VIP").leave(4),
    Column::new("READY").leave(8),
    Column::new("HEALTH").cut(20).leave(11),
    Column::new("ADDRESSES").cut(16).leave(3),
    Column::new("PORTS").cut(12).leave(2),
    Column::new("NO-BACKEND").leave(1),
];

/// Columns that only `-o wide` has.
const WIDE: usize = 3;

/// A line a service; wide ones with the newest connections of each node below.
pub fn table(page: &mut Page, services: &[Joined], wide: bool) {
    let shown = COLUMNS.len() - if wide { 0 } else { WIDE };
    let rows: Vec<Entry> = services
        .iter()
        .filter_map(|service| {
            let mut cells = row(service, service.first()?);
            cells.truncate(shown);
            let seen = |(node, report): (&String, &ServiceReport)| {
                let lines = report.evidence.iter();
                let lines = lines.map(|line| format!("  {node}: {line}"));
                lines.collect::<Vec<_>>()
            };
            Some(Entry {
                tone: (service.agrees() == "no").then_some(Tone::Bad),
                below: match wide {
                    true => service.nodes.iter().flat_map(seen).collect(),
                    false => Vec::new(),
                },
                ..Entry::new(cells)
            })
        })
        .collect();
    page.table(&COLUMNS[..shown], &rows);
    if rows.is_empty() {
        page.say(
            "no service faces outwards, and none was used: --all shows the rest",
            Tone::Plain,
        );
    }
}

/// One line a service.
pub fn compact(service: &Joined) -> Option<String> {
    let first = service.first()?;
    Some(format!(
        "{}/{} {} policy {}, client address {}, as promised: {}, {} ready",
        first.namespace,
        first.name,
        first.r#type,
        or_none(&first.policy),
        service.client_ip(),
        service.agrees(),
        first.ready
    ))
}

fn row(service: &Joined, first: &ServiceReport) -> Vec<String> {
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
        or_none(&first.policy),
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
        or_none(&health.join(", ")),
        or_none(&addresses.cloned().collect::<Vec<_>>().join(",")),
        or_none(&first.ports.join(",")),
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
