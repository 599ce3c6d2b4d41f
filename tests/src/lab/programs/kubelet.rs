//! The part of the kubelet that probes pods.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::ask::{self, Outcome};
use super::plan::{self, KubeletPlan, Plans, PodProbe, ProbeHandler};

/// What the kubelet calls itself (kubernetes, `pkg/probe/http`).
const USER_AGENT: &str = "kube-probe/1.30";

/// The first HTTP status that is a failure (the same).
const FIRST_BAD_STATUS: u16 = 400;

/// Probes as planned, each probe on a clock of its own; each outcome is a line.
pub(super) async fn run(path: PathBuf) -> Result<()> {
    let mut plans = Plans::<KubeletPlan>::of(path)?;
    let mut running: Vec<(PodProbe, JoinHandle<()>)> = Vec::new();
    loop {
        let next = plans.next().await?;
        let wanted = next.plan.probes;
        for (probe, task) in &running {
            if !wanted.contains(probe) {
                task.abort();
            }
        }
        running.retain(|(probe, _)| wanted.contains(probe));
        for probe in wanted {
            if !running.iter().any(|(other, _)| *other == probe) {
                let task = tokio::spawn(worker(probe.clone()));
                running.push((probe, task));
            }
        }
        plan::applied(next.generation);
    }
}

/// One probe, for ever.
async fn worker(probe: PodProbe) {
    let mut clock = tokio::time::interval(Duration::from_millis(probe.period_ms.max(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let outcome = once(&probe).await;
        println!(
            "{}",
            json!({
                "pod": probe.pod, "kind": probe.kind, "healthy": outcome.healthy,
                "detail": outcome.detail, "latency_seconds": outcome.latency.as_secs_f64(),
            })
        );
    }
}

async fn once(probe: &PodProbe) -> Outcome {
    let patience = Duration::from_millis(probe.timeout_ms);
    let ask = async {
        match &probe.handler {
            ProbeHandler::Http { port, path } => {
                let to = plan::target(probe.ip, *port);
                ask::http(to, None, path, USER_AGENT, FIRST_BAD_STATUS).await
            }
            ProbeHandler::Tcp { port } => ask::tcp(plan::target(probe.ip, *port), None).await,
            ProbeHandler::Grpc { port, service } => {
                ask::grpc(plan::target(probe.ip, *port), service, USER_AGENT).await
            }
        }
    };
    ask::timed(patience, ask).await
}
