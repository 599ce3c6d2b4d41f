//! The cloud's load balancer: probes every node, and routes each address to the healthy ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::join_all;
use serde_json::json;
use tokio::process::Command;
use tokio::time::MissedTickBehavior;

use super::ask::{self, Outcome};
use super::plan::{self, LbPlan, Plans, VipPlan};

/// What Azure's load balancer calls itself.
const USER_AGENT: &str = "Load Balancer Agent";

/// Only 200 is healthy to Azure's load balancer.
const FIRST_BAD_STATUS: u16 = 201;

/// The longest that a probe may take, in case the interval is longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the prober thinks of a node behind an address.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    probed: bool,
    up: bool,
    /// Probes in a row that say otherwise.
    against: u32,
}

type Standings = BTreeMap<(Ipv4Addr, usize), Standing>;

/// Probes and steers as planned. Each probe and each change of the steering is a line.
pub(super) async fn run(path: PathBuf) -> Result<()> {
    let mut plans = Plans::<LbPlan>::of(path)?;
    let mut standings = Standings::new();
    let mut steered: BTreeMap<Ipv4Addr, BTreeSet<usize>> = BTreeMap::new();
    let mut next = plans.next().await?;
    loop {
        let plan = &next.plan;
        standings.retain(|(vip, _), _| plan.vips.iter().any(|other| other.vip == *vip));
        let gone: Vec<Ipv4Addr> = steered.keys().copied().collect();
        for vip in gone {
            if !plan.vips.iter().any(|other| other.vip == vip) {
                ip(&["route", "del", &format!("{vip}/32")]).await?;
                steered.remove(&vip);
            }
        }
        let mut clock = tokio::time::interval(Duration::from_millis(plan.interval_ms.max(1)));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A new address is steered by a first round of probes before the plan counts as applied.
        clock.tick().await;
        round(plan, &mut standings).await;
        steer(plan, &standings, &mut steered).await?;
        plan::applied(next.generation);
        next = loop {
            tokio::select! {
                newer = plans.next() => break newer?,
                _ = clock.tick() => {
                    round(plan, &mut standings).await;
                    steer(plan, &standings, &mut steered).await?;
                }
            }
        };
    }
}

/// Probes every node for every address, at once.
async fn round(plan: &LbPlan, standings: &mut Standings) {
    if plan.paused {
        return;
    }
    let all = plan.vips.iter().flat_map(|vip| {
        let nodes = plan.nodes.iter().enumerate();
        nodes.map(move |(index, node)| async move { (vip, index, probe(plan, vip, *node).await) })
    });
    for (vip, node, outcome) in join_all(all).await {
        println!(
            "{}",
            json!({
                "service": vip.service, "vip": vip.vip, "node": node, "port": vip.port,
                "path": vip.path, "healthy": outcome.healthy, "detail": outcome.detail,
                "latency_seconds": outcome.latency.as_secs_f64(),
            })
        );
        let standing = standings.entry((vip.vip, node)).or_default();
        standing.against = match outcome.healthy == standing.up {
            true => 0,
            false => standing.against + 1,
        };
        // The first probe decides alone.
        if !standing.probed || standing.against >= plan.threshold {
            standing.up = outcome.healthy;
            standing.against = 0;
        }
        standing.probed = true;
    }
}

async fn probe(plan: &LbPlan, vip: &VipPlan, node: Ipv4Addr) -> Outcome {
    let to = plan::target(node, vip.port);
    let patience = Duration::from_millis(plan.interval_ms).clamp(PATIENCE / 5, PATIENCE);
    let source = Some(plan.source);
    ask::timed(patience, async {
        match &vip.path {
            Some(path) => ask::http(to, source, path, USER_AGENT, FIRST_BAD_STATUS).await,
            None => ask::tcp(to, source).await,
        }
    })
    .await
}

/// Routes each address to the nodes that it is to go to, where that has changed.
async fn steer(
    plan: &LbPlan,
    standings: &Standings,
    steered: &mut BTreeMap<Ipv4Addr, BTreeSet<usize>>,
) -> Result<()> {
    for vip in &plan.vips {
        let up = (0..plan.nodes.len()).filter(|node| {
            let standing = standings.get(&(vip.vip, *node));
            standing.is_some_and(|standing| standing.up)
        });
        let wanted: BTreeSet<usize> = match vip.pinned {
            Some(node) => BTreeSet::from([node]),
            None => up.collect(),
        };
        if steered.get(&vip.vip) == Some(&wanted) {
            continue;
        }
        let mut args = vec!["route".to_owned(), "replace".to_owned()];
        args.push(format!("{}/32", vip.vip));
        if wanted.is_empty() {
            args.extend(["dev".to_owned(), plan.void.clone()]);
        }
        for node in wanted.iter().filter_map(|node| plan.nodes.get(*node)) {
            args.extend(["nexthop".to_owned(), "via".to_owned(), node.to_string()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        ip(&args).await?;
        println!("{}", json!({"steer": vip.vip, "nodes": wanted}));
        steered.insert(vip.vip, wanted);
    }
    Ok(())
}

async fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output().await?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success(),
        "ip {}: {}",
        args.join(" "),
        said.trim()
    );
    Ok(())
}
