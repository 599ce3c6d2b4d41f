//! The agent's metrics as Prometheus takes them: names and helps by promtool, and a real Prometheus
//! with the rules and the dashboards' queries on lab traffic, and every alert in its fault.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{
    self, Agent, Lab, Netns, Pod, PodSpec, Probe, ProbeKind, Protocol, Service, Topology,
};

use crate::common::{eventually, get, synced};
use crate::monitoring_expiry::Brief;
use crate::monitoring_files::{Faster, dashboards, faster_rules, is_installed};
use crate::monitoring_server::Prometheus;
use crate::probes_support::set_endpoints;

/// In place of the rules' ranges and of Grafana's intervals: some scrapes.
const RANGE: &str = "6s";

/// Where each node tells of the endpoints of `front`.
const HEALTH_PORT: u16 = 31_990;

/// Source ports to take up.
const PORTS: u16 = 500;

/// What a lab's pods hold of the 64,512 source ports before the fault is a hundredth of that.
const PORT_SHARE: &str = "0.005";

/// A service behind the load balancer with its pod on node 0, which the kubelet probes.
fn start() -> Result<Option<Lab>> {
    if !lab::is_root() {
        println!("skipped: needs root for network namespaces and eBPF");
        return Ok(None);
    }
    let topology = Topology::kubenet();
    let front = Service::new("default", "front", [10, 0, 9, 9].into())
        .port("http", Protocol::Tcp, 80, 8080)
        .load_balancer(topology.vip(1))
        .local(HEALTH_PORT);
    let open = Service {
        selector: Some(("app".to_owned(), "web".to_owned())),
        ..Service::new("default", "open", [10, 0, 9, 10].into())
    };
    let open = open
        .port("http", Protocol::Tcp, 80, 8080)
        .load_balancer(topology.vip(2));
    let pod =
        PodSpec::new("front", 0)
            .serving()
            .probe(Probe::http(ProbeKind::Liveness, 8080, "/live"));
    let lab = Lab::builder("prom")
        .topology(topology)
        .simulated()
        .lb_probe(Duration::from_millis(500), 2)
        .pod(pod)
        .service(front)
        .service(open)
        .start()?;
    Ok(Some(lab))
}

/// The connection table's limit, which namespaces share.
fn conntrack_limit(lab: &Lab) -> Result<u64> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_max";
    let text = lab.node(0).enter(|| std::fs::read_to_string(path))??;
    Ok(text.trim().parse()?)
}

fn iptables(netns: &Netns, rule: &str) -> Result<()> {
    let argv: Vec<_> = ["iptables", "-w"]
        .into_iter()
        .chain(rule.split(' '))
        .collect();
    netns.tool(&argv, "").map(drop)
}

/// A round of traffic: to the VM, another node, a service by its name, a load balancer; and
/// datagrams to the DNS server, which get lost once [`break_everything`] was called.
fn round(lab: &Lab) -> Result<()> {
    let (web, web2, api) = (lab.pod("web")?, lab.pod("web2")?, lab.pod("api")?);
    let (dns, vm) = (lab.topology().dns.to_string(), lab.topology().vm.ip());
    get(&web.netns(), &format!("http://{vm}:8080/"))?;
    get(&web.netns(), &format!("http://{}:8080/", api.ip()))?;
    get(&lab.vm(), &format!("http://{}/", lab.topology().vip(2)))?;
    let named = "http://api.default.svc.cluster.local/";
    web.run_lab(["http-get", named, "--dns", &dns])?.success()?;
    let to = format!("{dns}:53");
    web2.run_lab(["udp-send", "--no-answer", "--count", "50", &to])?
        .success()?;
    Ok(())
}

/// Packets that end in their headers.
fn broken_frames(web: &Pod) -> Result<()> {
    let frame = "ffffffffffff020000000001080045000014";
    web.run_lab(["raw-send", "eth0", frame, "--count", "100"])?
        .success()?;
    Ok(())
}

/// Every fault that goes together with others.
fn break_everything(lab: &Lab, web: &Pod) -> Result<()> {
    let (node, vm) = (lab.node(0), lab.topology().vm.ip());
    // The kubelet's probes are refused, the load balancer's get a 503 though there is an endpoint,
    // and the API has one more endpoint than kube-proxy tells of.
    let refuse = "-I INPUT -p tcp --dport 8080 -j REJECT --reject-with tcp-reset";
    iptables(&lab.pod("front")?.netns(), refuse)?;
    lab.set_proxy_healthy(0, false)?;
    set_endpoints(lab, "front", &[(web.ip(), 0, true)])?;
    // Pods masqueraded among each other, and questions to the DNS server that are lost.
    iptables(
        &node,
        "-t nat -I POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE",
    )?;
    let web2 = lab.pod("web2")?.ip();
    iptables(
        &node,
        &format!("-I FORWARD -s {web2} -p udp --dport 53 -j DROP"),
    )?;
    // Source ports and conntrack entries, which stay as long as the test may take.
    node.sysctls(&[("net.netfilter.nf_conntrack_udp_timeout", "300")])?;
    iptables(&lab.vm(), "-I INPUT -p udp --dport 9900:9901 -j DROP")?;
    let (near, far) = (format!("{vm}:9900"), format!("{vm}:9901"));
    let last = (10_000 + PORTS - 1).to_string();
    web.run_lab([
        "udp-spread",
        &near,
        &far,
        "--first",
        "10000",
        "--last",
        &last,
    ])?
    .success()?;
    Ok(())
}

/// Waits until these alerts fire, with something done before each look.
fn fire(
    prometheus: &Prometheus,
    alerts: &[&str],
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut waiting: BTreeSet<&str> = alerts.iter().copied().collect();
    eventually("the alerts fire", || {
        meanwhile()?;
        for name in prometheus.firing()? {
            waiting.remove(name.as_str());
        }
        ensure!(waiting.is_empty(), "not yet: {waiting:?}");
        Ok(true)
    })
}

/// promtool finds nothing to say about what the agent serves in a lab.
fn lint(lab: &Lab, agent: &Agent) -> Result<()> {
    let text = agent.metrics()?;
    let output = lab.node(0).tool(&["promtool", "check", "metrics"], &text)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((said.as_str(), &*output.stdout), ("", &b""[..]));
    Ok(())
}

/// Every panel and variable of every dashboard has data.
struct Panels {
    queries: Vec<(String, String)>,
    labels: Vec<(String, String)>,
}

impl Panels {
    fn read() -> Result<Self> {
        let (mut queries, mut labels) = (Vec::new(), Vec::new());
        for dashboard in dashboards()? {
            for query in dashboard.queries() {
                let expr = dashboard.substituted(&query.expr, RANGE)?;
                queries.push((query.place, expr));
            }
            labels.extend(dashboard.variables()?);
        }
        ensure!(queries.len() > 80, "{} queries", queries.len());
        Ok(Self { queries, labels })
    }

    /// Forgets those that have some; what is left.
    fn without_data(&mut self, prometheus: &Prometheus) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (place, expr) in std::mem::take(&mut self.queries) {
            if !prometheus.has_data(&expr).with_context(|| place.clone())? {
                left.push((place, expr));
            }
        }
        self.queries = left;
        for (metric, label) in std::mem::take(&mut self.labels) {
            if prometheus.label_values(&metric, &label)?.is_empty() {
                self.labels.push((metric, label));
            }
        }
        let queries = self
            .queries
            .iter()
            .map(|(place, expr)| format!("{place}: {expr}"));
        let labels = self
            .labels
            .iter()
            .map(|(metric, label)| format!("{label} of {metric}"));
        Ok(queries.chain(labels).collect())
    }
}

/// Issue 5, items 4 and 5: Debian's Prometheus against the lab.
#[test]
fn prometheus_rules_and_dashboards_on_a_lab() -> Result<()> {
    if !is_installed("prometheus") || !is_installed("promtool") {
        return Ok(());
    }
    let Some(lab) = start()? else {
        return Ok(());
    };
    // As `sysctl kernel.bpf_stats_enabled=1`, as long as this test runs.
    let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    let entries = (u64::from(PORTS) * 3 / 2) as f64 / conntrack_limit(&lab)? as f64;
    let thresholds = [
        (
            "NodescopeSnatPortsNearExhaustion",
            "> 0.8",
            format!("> {PORT_SHARE}"),
        ),
        (
            "NodescopeConntrackNearLimit",
            "> 0.8",
            format!("> {entries}"),
        ),
        (
            "NodescopeLoadBalancerProbeAbsent",
            "> 120",
            "> 4".to_owned(),
        ),
        ("NodescopeKubeletProbeAbsent", "> 300", "> 4".to_owned()),
    ];
    lab.lb(lab.topology().vip(2)).steer(0)?;
    let faster = Faster {
        range: RANGE,
        hold: "1s",
        thresholds: &thresholds,
    };
    let (rules, alerts) = faster_rules(&faster)?;
    let prometheus = Prometheus::start(&lab, &rules)?;
    let soon = ["--flow-interval", "500ms", "--metrics-expiry", "2s"];
    let mut agent = lab.start_agent(0, &soon)?;
    synced(&agent)?;
    let web = lab.pod("web")?;
    lab.play()?;

    // Nobody has told Prometheus of the agent.
    fire(&prometheus, &["NodescopeAgentsAbsent"], || Ok(()))?;
    prometheus.add_agent(&lab)?;

    // All is well.
    eventually("the target is up", || {
        let targets = prometheus.targets()?;
        ensure!(targets == [("up".to_owned(), String::new())], "{targets:?}");
        Ok(true)
    })?;
    let brief = Brief::come_and_go(&lab, &agent, &prometheus)?;
    round(&lab)?;
    lint(&lab, &agent)?;
    eventually("every rule was evaluated, and is well", || {
        let rules = prometheus.rules()?;
        let loaded: BTreeSet<_> = rules.keys().cloned().collect();
        ensure!(alerts.is_subset(&loaded), "{rules:?}");
        let ill = rules.iter().find(|(_, health)| *health != "\"ok\" null");
        ensure!(ill.is_none(), "{ill:?}");
        Ok(true)
    })?;
    eventually("no alert fires", || {
        let firing = prometheus.firing()?;
        ensure!(firing.is_empty(), "{firing:?}");
        Ok(true)
    })?;

    // What can go wrong at once does.
    break_everything(&lab, &web)?;
    let mut panels = Panels::read()?;
    let at_once = [
        "NodescopeProbeFailing",
        "NodescopeLoadBalancerProbeFailing",
        "NodescopeHealthCheckDisagrees",
        "NodescopeSnatMismatch",
        "NodescopeSnatPortsNearExhaustion",
        "NodescopeConntrackNearLimit",
        "NodescopeDrops",
        "NodescopeUnattributedPackets",
    ];
    fire(&prometheus, &at_once, || {
        broken_frames(&web)?;
        round(&lab)
    })?;
    eventually("every panel has data", || {
        round(&lab)?;
        let left = panels.without_data(&prometheus)?;
        ensure!(left.is_empty(), "without data: {left:#?}");
        Ok(true)
    })?;

    // What is gone comes back.
    brief.come_back(&lab, &agent, &prometheus)?;

    // The probers fall silent.
    lab.pause_lb_probes(true)?;
    let front = lab.pod("front")?.ip();
    iptables(
        &lab.node(0),
        &format!("-I OUTPUT -d {front} -p tcp --dport 8080 -j DROP"),
    )?;
    let silent = [
        "NodescopeLoadBalancerProbeAbsent",
        "NodescopeKubeletProbeAbsent",
    ];
    fire(&prometheus, &silent, || Ok(()))?;

    // The agent goes.
    agent.stop()?;
    fire(&prometheus, &["NodescopeAgentDown"], || Ok(()))?;
    let alone = ["NodescopeAgentsAbsent", "NodescopeAgentDown"];
    let fired = at_once.into_iter().chain(silent).chain(alone);
    let fired: BTreeSet<_> = fired.map(str::to_owned).collect();
    assert_eq!(fired, alerts);
    let log = prometheus.log();
    assert!(!log.contains("level=error"), "{log}");
    Ok(())
}
