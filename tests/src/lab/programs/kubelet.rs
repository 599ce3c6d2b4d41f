//! The part of the kubelet that probes pods.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::ask::{self, Outcome};
use super::plan::{self, KubeletPlan, Plans, PodProbe, ProbeHandler};

/// What the kubelet calls itself (kubernetes, `pkg/probe/http`).
const USER_AGENT: &str = "kube-probe/1.30";

/// The kind of probe that the others wait for.
const STARTUP: &str = "startup";

/// The first HTTP status that is a failure (the same).
const FIRST_BAD_STATUS: u16 = 400;

/// Pods whose startup probe has succeeded.
type Started = Arc<watch::Sender<HashSet<String>>>;

/// Probes as planned, each probe on a clock of its own; each outcome is a line. As with the
/// kubelet, a startup probe ends with its first success, and the pod's others begin then.
pub(super) async fn run(path: PathBuf) -> Result<()> {
    let mut plans = Plans::<KubeletPlan>::of(path)?;
    let mut running: Vec<(PodProbe, JoinHandle<()>)> = Vec::new();
    let started = Started::default();
    loop {
        let next = plans.next().await?;
        let wanted = next.plan.probes;
        for (probe, task) in &running {
            if !wanted.contains(probe) {
                task.abort();
            }
        }
        running.retain(|(probe, _)| wanted.contains(probe));
        let starting = |pod: &str| wanted.iter().any(|p| p.kind == STARTUP && p.pod == pod);
        for probe in &wanted {
            if !running.iter().any(|(other, _)| other == probe) {
                let waits = probe.kind != STARTUP && starting(&probe.pod);
                let work = worker(probe.clone(), waits, Arc::clone(&started));
                running.push((probe.clone(), tokio::spawn(work)));
            }
        }
        plan::applied(next.generation);
    }
}

/// One probe, until it has nothing left to find out.
async fn worker(probe: PodProbe, waits: bool, started: Started) {
    if waits {
        let mut pods = started.subscribe();
        // The sender is ours too: it is there as long as this waits.
        let _ = pods.wait_for(|pods| pods.contains(&probe.pod)).await;
    }
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
        if probe.kind == STARTUP && outcome.healthy {
            started.send_modify(|pods| {
                pods.insert(probe.pod.clone());
            });
            return;
        }
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
