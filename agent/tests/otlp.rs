//! OTLP on real packets: a collector that comes late gets what the flow log has.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nodescope_tests::lab::{self, Agent, Lab, Netns};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// How long anything may take: far longer than it does.
const PATIENCE: Duration = Duration::from_secs(30);

const COLLECTOR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4317);

/// Bodies of the records that came, by the id of each.
type Bodies = BTreeMap<String, Value>;

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Value>>>);

impl Collector {
    fn bodies(&self) -> Result<Bodies> {
        by_id(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn by_id(records: &[Value]) -> Result<Bodies> {
    let mut bodies = Bodies::new();
    for record in records {
        let id = record["flow"]["uuid"]
            .as_str()
            .context("a record without an id")?;
        let before = bodies.insert(id.to_owned(), record.clone());
        ensure!(before.is_none(), "{id} is there twice");
    }
    Ok(bodies)
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let resources = request.into_inner().resource_logs.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_logs);
        let records = scopes.flat_map(|scope| scope.log_records);
        let bodies = records
            .filter_map(|record| record.body)
            .map(|body| plain(&body));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(bodies);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

fn plain(value: &AnyValue) -> Value {
    use any_value::Value as Kind;
    match &value.value {
        Some(Kind::BoolValue(flag)) => json!(flag),
        Some(Kind::IntValue(whole)) => json!(whole),
        Some(Kind::DoubleValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::ArrayValue(list)) => list.values.iter().map(plain).collect(),
        Some(Kind::KvlistValue(fields)) => Value::Object(
            fields
                .values
                .iter()
                .map(|field| {
                    let value = field.value.as_ref().map_or(Value::Null, plain);
                    (field.key.clone(), value)
                })
                .collect(),
        ),
        _ => Value::Null,
    }
}

/// Serves the collector inside a node until what this returns is dropped.
fn serve(node: Netns, collector: Collector) -> oneshot::Sender<()> {
    let (stop, stopped) = oneshot::channel();
    thread::spawn(move || -> Result<()> {
        node.enter_for_good()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let server = tonic::transport::Server::builder()
            .add_service(LogsServiceServer::new(collector))
            .serve_with_shutdown(COLLECTOR, async {
                let _ = stopped.await;
            });
        Ok(runtime.block_on(server)?)
    });
    stop
}

fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    lab::wait_for(what, PATIENCE, || condition().unwrap_or(false))
}

fn closed(agent: &Agent) -> Result<usize> {
    let all = agent.flows()?;
    let closed = |record: &&Value| record["flow"]["extensions"]["value"]["event"] == "close";
    Ok(all.iter().filter(closed).count())
}

#[test]
fn a_collector_that_comes_late_gets_what_the_flow_log_has() -> Result<()> {
    if !lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(());
    }
    let lab = Lab::builder("otlp").start()?;
    let url = format!("http://{COLLECTOR}");
    let mut agent = lab.start_agent(0, &["--flow-interval", "500ms", "--otlp-endpoint", &url])?;
    let target = lab.pod("web2")?.ip();
    for _ in 0..5 {
        let url = format!("http://{target}:8080/");
        lab.pod("web")?
            .netns()
            .run_lab(["http-get", &url])?
            .success()?;
    }
    eventually("connections in the flow log", || Ok(closed(&agent)? >= 5))?;
    let collector = Collector::default();
    let _serving = serve(lab.node(0), collector.clone());
    eventually("as many records as the flow log has", || {
        Ok(collector.bodies()?.len() >= agent.flows()?.len())
    })?;
    let metrics = agent.metrics()?;
    ensure!(
        metrics.contains("nodescope_events_lost_total{kind=\"otlp\"} 0"),
        "{metrics}"
    );
    // The last records go out when the agent ends.
    agent.stop()?;
    let (sent, logged) = (collector.bodies()?, by_id(&agent.flows()?)?);
    ensure!(sent.len() >= 10, "{} records", sent.len());
    for (id, body) in &logged {
        ensure!(
            sent.get(id) == Some(body),
            "{id}: {:?} is not {body}",
            sent.get(id)
        );
    }
    ensure!(
        sent.len() == logged.len(),
        "{} sent, {} logged",
        sent.len(),
        logged.len()
    );
    Ok(())
}
