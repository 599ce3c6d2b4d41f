//! kube-proxy in each node's namespace, and the wait for its rules.

use std::collections::{BTreeMap, BTreeSet};
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

/// What the rules of a node must say: the `KUBE-SEP-…` chains of each service port
/// (`namespace/service:port`), none where it has no endpoints.
pub(crate) type Expected = BTreeMap<String, BTreeSet<String>>;

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

    /// Waits until the rules in `netns` lead each service port of `expected` to its endpoints and
    /// to no others. Services that the lab does not know are left alone.
    pub(crate) fn wait(&self, netns: &Netns, expected: &Expected) -> Result<()> {
        let mut rules = String::new();
        let what = format!("the rules of kube-proxy in {}", netns.name());
        let waited = wait_for(&what, SYNC_TIMEOUT, || {
            let saved = netns.tool(&["iptables-save"], "");
            rules = saved.map_or_else(
                |error| error.to_string(),
                |out| String::from_utf8_lossy(&out.stdout).into_owned(),
            );
            read(&rules, expected) == *expected
        });
        waited.with_context(|| {
            let found = read(&rules, expected);
            format!("wanted {expected:?}, found {found:?}")
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Proc>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the output of `iptables-save` says about the ports of `wanted`.
fn read(rules: &str, wanted: &Expected) -> Expected {
    let mut found = Expected::new();
    for line in rules.lines() {
        let chain = line.split(' ').nth(1).unwrap_or_default();
        let comment = line.split('"').nth(1).unwrap_or_default();
        let port = match chain {
            "KUBE-SERVICES" => comment
                .strip_suffix(" cluster IP")
                .or_else(|| comment.strip_suffix(" has no endpoints")),
            _ if chain.starts_with("KUBE-SEP-") => Some(comment),
            _ => None,
        };
        let Some(port) = port.filter(|port| wanted.contains_key(*port)) else {
            continue;
        };
        let endpoints = found.entry(port.to_owned()).or_default();
        if chain != "KUBE-SERVICES" {
            endpoints.insert(chain.to_owned());
        }
    }
    found
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
            -A KUBE-SEP-AAAA -p tcp -m comment --comment \"default/web:http\" -m tcp -j DNAT\n\
            -A KUBE-SEP-BBBB -p tcp -m comment --comment \"default/x:http\" -m tcp -j DNAT\n\
            *filter\n-A KUBE-SERVICES -d 10.0.9.9/32 -p tcp -m comment --comment \
            \"default/front:http has no endpoints\" -m tcp --dport 80 -j REJECT\n";
        let expected = Expected::from([
            (
                "default/web:http".to_owned(),
                BTreeSet::from(["KUBE-SEP-AAAA".to_owned()]),
            ),
            ("default/front:http".to_owned(), BTreeSet::new()),
        ]);
        assert_eq!(read(rules, &expected), expected);
    }
}
