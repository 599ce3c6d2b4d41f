//! kube-proxy's answers about health: a port for each service of policy Local, and its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::plan::{self, HealthPlan, Plans, ServiceHealth};

/// kube-proxy's own port (kubernetes, `--healthz-bind-address`).
pub const PROXY_PORT: u16 = 10256;

type Shared = Arc<RwLock<HealthPlan>>;

/// Listens as planned; a question is a line `{"asked":PORT,"path":…,"from":…,"status":…}`.
pub(super) async fn run(path: PathBuf) -> Result<()> {
    let mut plans = Plans::<HealthPlan>::of(path)?;
    let first = plans.next().await?;
    let mut generation = first.generation;
    let shared: Shared = Arc::new(RwLock::new(first.plan));
    let mut open: HashMap<u16, JoinHandle<()>> = HashMap::new();
    loop {
        let mut wanted = vec![PROXY_PORT];
        let services = read(&shared).services;
        wanted.extend(services.iter().map(|service| service.port));
        let gone: Vec<u16> = open.keys().copied().collect();
        for port in gone.into_iter().filter(|port| !wanted.contains(port)) {
            if let Some(task) = open.remove(&port) {
                task.abort();
                // The socket is closed when the task is gone.
                let _ = task.await;
            }
        }
        for port in wanted {
            if let std::collections::hash_map::Entry::Vacant(entry) = open.entry(port) {
                entry.insert(serve(port, Arc::clone(&shared)).await?);
            }
        }
        plan::applied(generation);
        let next = plans.next().await?;
        generation = next.generation;
        *shared.write().unwrap_or_else(PoisonError::into_inner) = next.plan;
    }
}

fn read(shared: &Shared) -> HealthPlan {
    shared
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

async fn serve(port: u16, shared: Shared) -> Result<JoinHandle<()>> {
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let answer = async move |from: ConnectInfo<SocketAddr>, uri: Uri| {
        let response = respond(&read(&shared), port, uri.path());
        println!(
            "{}",
            json!({
                "asked": port, "path": uri.path(), "from": from.0,
                "status": response.status().as_u16(),
            })
        );
        response
    };
    let service = Router::new()
        .fallback(answer)
        .into_make_service_with_connect_info::<SocketAddr>();
    Ok(tokio::spawn(async move {
        // Ends only when it is aborted.
        let _ = axum::serve(listener, service).await;
    }))
}

fn respond(plan: &HealthPlan, port: u16, path: &str) -> Response {
    let service = plan.services.iter().find(|service| service.port == port);
    match (service, path) {
        (Some(service), _) => service_answer(plan, service),
        (None, "/healthz" | "/livez") => proxy_answer(plan),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn status(healthy: bool) -> StatusCode {
    match healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// As kube-proxy writes it (kubernetes, `pkg/proxy/healthcheck/service_health.go`).
fn service_answer(plan: &HealthPlan, service: &ServiceHealth) -> Response {
    let count = service.local_endpoints;
    let mut lines = vec![
        format!(
            "\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}}",
            json!(service.namespace),
            json!(service.name)
        ),
        format!("\t\"localEndpoints\": {count}"),
    ];
    let json = ("content-type", "application/json");
    let no_sniff = ("x-content-type-options", "nosniff");
    if plan.old_form {
        let body = format!("{{\n{}\n}}", lines.join(",\n"));
        return (status(count > 0), [json, no_sniff], body).into_response();
    }
    lines.push(format!("\t\"serviceProxyHealthy\": {}", plan.proxy_healthy));
    let body = format!("{{\n{}\n}}", lines.join(",\n"));
    let weight = match plan.proxy_healthy {
        true => count,
        false => 0,
    };
    let weight = ("x-load-balancing-endpoint-weight", weight.to_string());
    let healthy = status(count > 0 && plan.proxy_healthy);
    (healthy, [json, no_sniff], [weight], body).into_response()
}

/// As kube-proxy writes it (kubernetes, `pkg/proxy/healthcheck/proxy_health.go`).
fn proxy_answer(plan: &HealthPlan) -> Response {
    let now = jiff::Timestamp::now().to_string();
    let mut body = json!({"lastUpdated": now, "currentTime": now});
    if !plan.old_form {
        body["nodeEligible"] = json!(true);
    }
    let headers = [
        ("content-type", "application/json"),
        ("x-content-type-options", "nosniff"),
    ];
    (status(plan.proxy_healthy), headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    fn plan(local_endpoints: usize, proxy_healthy: bool, old_form: bool) -> HealthPlan {
        HealthPlan {
            proxy_healthy,
            old_form,
            services: vec![ServiceHealth {
                namespace: "default".to_owned(),
                name: "web".to_owned(),
                port: 31_000,
                local_endpoints,
            }],
        }
    }

    async fn answer(plan: &HealthPlan, port: u16, path: &str) -> (u16, Value) {
        let response = respond(plan, port, path);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn endpoints_and_proxy_decide_together() {
        let (status, body) = answer(&plan(2, true, false), 31_000, "/").await;
        assert_eq!((status, &body["localEndpoints"]), (200, &json!(2)));
        assert_eq!(
            body["service"],
            json!({"namespace": "default", "name": "web"})
        );
        let (status, body) = answer(&plan(2, false, false), 31_000, "/").await;
        assert_eq!((status, &body["serviceProxyHealthy"]), (503, &json!(false)));
        let (status, body) = answer(&plan(0, true, true), 31_000, "/").await;
        assert_eq!((status, body.get("serviceProxyHealthy")), (503, None));
        assert_eq!(
            answer(&plan(0, true, false), PROXY_PORT, "/healthz")
                .await
                .0,
            200
        );
        assert_eq!(answer(&plan(0, true, false), PROXY_PORT, "/").await.0, 404);
    }
}
