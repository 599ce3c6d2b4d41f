//! A pod that goes and comes back: its series end, and what Prometheus makes of both lives together
//! is what was sent in both, nothing twice.

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, PodSpec};

use crate::common::{eventually, get, metric, number, records};
use crate::monitoring_server::Prometheus;

/// The pod's workload.
const NAME: &str = "brief";

/// The pods of its two lives: as in a cluster, no two have the same uid.
const PODS: [&str; 2] = ["brief", "brief2"];

/// What it sends, as the agent counts it.
const SERIES: &str =
    "nodescope_flow_packets_total{source_workload=\"brief\", direction=\"forward\"}";

/// What it sent in its first life.
pub struct Brief {
    sent: u64,
}

/// Packets that the pod sent, by the flow log.
fn sent(agent: &Agent) -> Result<u64> {
    let all = records(agent)?;
    let own = all.iter().filter(|record| {
        let pod = record.flow("/source/pod_name").as_str();
        pod.is_some_and(|pod| pod.starts_with(NAME))
    });
    Ok(own
        .filter_map(|record| number(record.ext("/forward/packets")))
        .sum())
}

/// Starts the pod, has it fetch something, less often in its second life, and waits until the agent
/// and Prometheus count what was sent beyond `before`: how much that is.
fn live(
    lab: &Lab,
    agent: &Agent,
    prometheus: &Prometheus,
    life: usize,
    before: u64,
) -> Result<u64> {
    let pod = lab.add_pod(PodSpec::new(PODS[life], 0).app(NAME))?;
    let times = 3 - life;
    let url = format!("http://{}:8080/", lab.pod("web2")?.ip());
    for _ in 0..times {
        get(&pod.netns(), &url)?;
    }
    let name = pod.name();
    let labels = [("source_workload", NAME), ("direction", "forward")];
    let mut here = 0;
    eventually("prometheus has counted all", || {
        let closed = records(agent)?.into_iter().filter(|record| {
            let pod = record.flow("/source/pod_name").as_str();
            record.event() == "close" && pod == Some(name.as_str())
        });
        ensure!(closed.count() >= times, "connections are open");
        here = sent(agent)? - before;
        let counted = metric(agent, "nodescope_flow_packets_total", &labels)?;
        ensure!(counted == Some(here as f64), "{counted:?} of {here}");
        let read = prometheus.query(SERIES)?;
        ensure!(read == [here as f64], "{read:?} of {here}");
        Ok(true)
    })?;
    Ok(here)
}

impl Brief {
    /// A first life, and its end.
    pub fn come_and_go(lab: &Lab, agent: &Agent, prometheus: &Prometheus) -> Result<Self> {
        let sent = live(lab, agent, prometheus, 0, 0)?;
        lab.remove_pod(PODS[0])?;
        Ok(Self { sent })
    }

    /// Waits for the end of its series; a second life, shorter than the first.
    pub fn come_back(&self, lab: &Lab, agent: &Agent, prometheus: &Prometheus) -> Result<()> {
        eventually("the series has ended", || {
            Ok(prometheus.query(SERIES)?.is_empty())
        })?;
        let again = live(lab, agent, prometheus, 1, self.sent)?;
        ensure!(again < self.sent, "{again} after {}", self.sent);
        let samples = prometheus.samples(&format!("{SERIES}[10m]"))?;
        let first = *samples.first().context("no samples")?;
        // As `increase` adds up, without its extrapolation.
        let steps = samples.windows(2).map(|pair| match pair[1] < pair[0] {
            true => pair[1],
            false => pair[1] - pair[0],
        });
        let increase: f64 = steps.sum();
        assert_eq!(first + increase, (self.sent + again) as f64, "{samples:?}");
        assert_eq!(prometheus.query(&format!("resets({SERIES}[10m])"))?, [1.0]);
        Ok(())
    }
}
