//! kube-proxy in each node's namespace, and the wait for its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{Netns, Proc, Topology, wait_for};

/// How long kube-proxy may take to follow a change: some hundred milliseconds on an idle machine.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// The kube-proxies of a lab.
pub(crate) struct Proxies {
    program: PathBuf,
    running: Mutex<Vec<Proc>>,
}

/// What the rules of a node must say, by service port (`namespace/service:port`).
pub(crate) type Expected = BTreeMap<String, PortRules>;

/// The rules of a service port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PortRules {
    /// The `KUBE-SEP-…` chains of its endpoints.
    pub endpoints: BTreeSet<String>,
    /// The load balancer's address.
    pub vip: Option<Ipv4Addr>,
    /// The port on the node.
    pub node_port: Option<u16>,
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

    /// Waits until the health-check node port `port` in `netns` tells of `count` endpoints.
    pub(crate) fn wait_health(&self, netns: &Netns, port: u16, count: usize) -> Result<()> {
        let wanted = u64::try_from(count)?;
        let what = format!("{count} endpoints at port {port} in {}", netns.name());
        wait_for(&what, SYNC_TIMEOUT, || {
            local_endpoints(netns, port).is_ok_and(|now| now == wanted)
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
        // `namespace/service:port`, and in some chains what the rule is about.
        let (port, about) = comment.split_once(' ').unwrap_or((comment, ""));
        let matters = match chain {
            "KUBE-SERVICES" => {
                ["cluster IP", "loadbalancer IP", "has no endpoints"].contains(&about)
            }
            "KUBE-NODEPORTS" => about.is_empty(),
            _ => chain.starts_with("KUBE-SEP-"),
        };
        if !matters || !wanted.contains_key(port) {
            continue;
        }
        let rules = found.entry(port.to_owned()).or_default();
        match chain {
            "KUBE-SERVICES" if about == "loadbalancer IP" => {
                let vip = argument(line, "-d").and_then(|net| net.strip_suffix("/32"));
                rules.vip = vip.and_then(|ip| ip.parse().ok());
            }
            "KUBE-SERVICES" => {}
            "KUBE-NODEPORTS" => {
                rules.node_port = argument(line, "--dport").and_then(|port| port.parse().ok());
            }
            endpoint => {
                rules.endpoints.insert(endpoint.to_owned());
            }
        }
    }
    found
}

/// The word after `flag`.
fn argument<'a>(line: &'a str, flag: &str) -> Option<&'a str> {
    let mut words = line.split(' ').skip_while(|word| *word != flag);
    words.nth(1)
}

/// The number of local endpoints that the health-check node port `port` tells of.
fn local_endpoints(netns: &Netns, port: u16) -> Result<u64> {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let second = Duration::from_secs(1);
    let mut stream = netns.enter(|| TcpStream::connect_timeout(&target, second))??;
    stream.set_read_timeout(Some(second))?;
    // HTTP/1.0: the answer ends with the connection.
    write!(stream, "GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let body: Value = serde_json::from_str(body)?;
    body["localEndpoints"].as_u64().context("no count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_kube_proxy_are_read() {
        let rules = "*nat\n:KUBE-SEP-AAAA - [0:0]\n\
            -A KUBE-NODEPORTS -p tcp -m comment --comment \"default/web:http\" -m tcp --dport 30080 -j KUBE-SVC-A\n\
            -A KUBE-SERVICES ! -s 10.244.0.0/16 -d 10.0.0.1/32 -p tcp -m comment --comment \
            \"default/web:http cluster IP\" -m tcp --dport 80 -j KUBE-MARK-MASQ\n\
            -A KUBE-SERVICES -d 10.224.0.9/32 -p tcp -m comment --comment \
            \"default/web:http loadbalancer IP\" -m tcp --dport 80 -j KUBE-FW-A\n\
            -A KUBE-SEP-AAAA -p tcp -m comment --comment \"default/web:http\" -m tcp -j DNAT\n\
            -A KUBE-SEP-BBBB -p tcp -m comment --comment \"default/x:http\" -m tcp -j DNAT\n\
            *filter\n-A KUBE-SERVICES -d 10.0.9.9/32 -p tcp -m comment --comment \
            \"default/front:http has no endpoints\" -m tcp --dport 80 -j REJECT\n";
        let web = PortRules {
            endpoints: BTreeSet::from(["KUBE-SEP-AAAA".to_owned()]),
            vip: Some(Ipv4Addr::new(10, 224, 0, 9)),
            node_port: Some(30080),
        };
        let expected = Expected::from([
            ("default/web:http".to_owned(), web),
            ("default/front:http".to_owned(), PortRules::default()),
        ]);
        assert_eq!(read(rules, &expected), expected);
    }
}
