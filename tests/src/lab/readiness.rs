//! Pods that become ready or not, end, or become more or fewer.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::pods::{Pod, PodSpec};
use super::{Lab, objects};

impl Lab {
    /// Says that pod `short` is ready or not: condition, EndpointSlices, rules and health
    /// answers follow before this returns, the load balancer when it next probes.
    pub fn set_ready(&self, short: &str, ready: bool) -> Result<()> {
        let pod = self.pod(short)?;
        pod.mark_ready(ready);
        self.apply(|| objects::pod(&self.topology, &pod))?;
        self.sync_services()
    }

    /// Begins to end pod `short`: it still serves what it has, and takes nothing new.
    /// [`Lab::remove_pod`] is its end.
    pub fn drain(&self, short: &str) -> Result<()> {
        let pod = self.pod(short)?;
        pod.mark_terminating();
        self.apply(|| objects::pod(&self.topology, &pod))?;
        self.sync_services()
    }

    /// Ends every pod of node `index` that has an interface, as `kubectl drain` does.
    pub fn drain_node(&self, index: usize) -> Result<()> {
        let pods: Vec<Pod> = self.pods();
        let here = || pods.iter().filter(|pod| pod.node() == index);
        for pod in here() {
            self.drain(pod.short())?;
        }
        for pod in here() {
            self.remove_pod(pod.short())?;
        }
        Ok(())
    }

    /// Gives Deployment `app` so many `replicas`: the newest go first; new ones are copies of
    /// the first, called `<app>-r<number>`, on the nodes in turn.
    pub fn scale(&self, app: &str, replicas: usize) -> Result<()> {
        let mut all: Vec<Pod> = self.pods();
        all.retain(|pod| pod.spec().app == app);
        while all.len() > replicas {
            if let Some(last) = all.pop() {
                self.remove_pod(last.short())?;
            }
        }
        let nodes = self.topology.nodes.len();
        for number in all.len()..replicas {
            let first = all.first().context("scaling from nothing: add a pod")?;
            let used = |short: &String| self.pods().iter().all(|pod| pod.short() != short);
            let mut names = (number..).map(|number| format!("{app}-r{number}"));
            let spec = PodSpec {
                short: names.find(used).unwrap_or_default(),
                node: (first.node() + number) % nodes,
                ip: None::<Ipv4Addr>,
                ..first.spec().clone()
            };
            self.add_pod(spec)?;
        }
        Ok(())
    }
}
