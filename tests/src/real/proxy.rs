//! kube-proxy in each node's namespace, and the wait for its rules.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Netns, Proc, Service, Topology, wait_for};

/// How long kube-proxy may take to follow a change: some hundred milliseconds on an idle machine.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// The kube-proxies of a lab.
pub(crate) struct Proxies {
    program: PathBuf,
    running: Mutex<Vec<Proc>>,
}

/// What the rules of a node must say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// `KUBE-SEP-…` of every endpoint.
    pub endpoints: BTreeSet<String>,
    /// Service ports (`namespace/service:port`) with endpoints.
    pub served: BTreeSet<String>,
    /// Service ports without.
    pub rejected: BTreeSet<String>,
}

impl Proxies {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self {
            program,
            running: Mutex::new(Vec::new()),
        }
    }

    /// Starts kube-proxy for node `index` in its namespace.
    pub(crate) fn start(
        &self,
        topology: &Topology,
        index: usize,
        netns: &Netns,
        kubeconfig: &Path,
        log: &Path,
    ) -> Result<()> {
        let node = topology.nodes.get(index).context("no such node")?;
        let argv = [
            self.program.display().to_string(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={}", node.name),
            format!("--cluster-cidr={}", topology.pod_range),
            "--proxy-mode=iptables".to_owned(),
            "--iptables-min-sync-period=20ms".to_owned(),
            "--healthz-bind-address=0.0.0.0:10256".to_owned(),
            "--metrics-bind-address=127.0.0.1:10249".to_owned(),
            // These parameters are the machine's, read-only in a node's namespace.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0".to_owned(),
            "--feature-gates=EndpointSliceNodeName=true".to_owned(),
        ];
        let process = Proc::start(netns, &argv, log)?;
        self.lock().push(process);
        Ok(())
    }

    /// Ends them.
    pub(crate) fn stop(&self) {
        self.lock().clear();
    }

    /// Waits until the rules in `netns` lead to the endpoints of `expected` and to no others.
    pub(crate) fn wait(&self, netns: &Netns, expected: &Expected) -> Result<()> {
        let mut rules = String::new();
        let what = format!("the rules of kube-proxy in {}", netns.name());
        let waited = wait_for(&what, SYNC_TIMEOUT, || {
            let saved = netns.tool(&["iptables-save"], "");
            rules = saved.map_or_else(
                |error| error.to_string(),
                |out| String::from_utf8_lossy(&out.stdout).into_owned(),
            );
            Expected::read(&rules) == *expected
        });
        waited.with_context(|| format!("wanted {expected:?}, found {:?}", Expected::read(&rules)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Proc>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected {
    /// Adds a port of a service that leads to the chains `endpoints`.
    pub(crate) fn add(&mut self, port_name: String, endpoints: impl IntoIterator<Item = String>) {
        let before = self.endpoints.len();
        self.endpoints.extend(endpoints);
        if self.endpoints.len() > before {
            self.served.insert(port_name);
        } else {
            self.rejected.insert(port_name);
        }
    }

    /// What the output of `iptables-save` says.
    fn read(rules: &str) -> Self {
        let mut found = Self::default();
        for line in rules.lines() {
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                if name.starts_with("KUBE-SEP-") {
                    found.endpoints.insert(name.to_owned());
                }
            } else if line.starts_with("-A KUBE-SERVICES ") {
                let comment = line.split('"').nth(1).unwrap_or_default();
                if let Some(port) = comment.strip_suffix(" cluster IP") {
                    found.served.insert(port.to_owned());
                } else if let Some(port) = comment.strip_suffix(" has no endpoints") {
                    found.rejected.insert(port.to_owned());
                }
            }
        }
        found
    }
}

/// Whether anything of `service` is to be found in rules: a headless one has none.
pub(crate) fn has_rules(service: &Service) -> bool {
    !service.cluster_ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_kube_proxy_are_read() {
        let rules = "*nat\n:KUBE-SEP-AAAA - [0:0]\n\
            -A KUBE-SERVICES ! -s 10.244.0.0/16 -d 10.0.0.1/32 -p tcp -m comment --comment \
            \"default/web:http cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ\n\
            *filter\n-A KUBE-SERVICES -d 10.0.9.9/32 -p tcp -m comment --comment \
            \"default/front:http has no endpoints\" -m tcp --dport 80 -j REJECT\n";
        let mut expected = Expected::default();
        expected.add("default/web:http".to_owned(), ["KUBE-SEP-AAAA".to_owned()]);
        expected.add("default/front:http".to_owned(), []);
        assert_eq!(Expected::read(rules), expected);
    }
}
