//! iptables rules as kube-proxy's iptables mode and the network plugin write them.

use std::fmt::Write;
use std::net::Ipv4Addr;

use data_encoding::BASE32;
use ring::digest::{SHA256, digest};

use super::pods::Pod;
use super::services::{Service, ServicePort};
use super::topology::Topology;

/// The mark of packets to masquerade (kube-proxy, `--iptables-masquerade-bit` 14).
const MASQ_MARK: &str = "0x4000";

/// The nat and filter tables of a node, as input of `iptables-restore`.
///
/// `masquerade` are the network plugin's own rules of the nat table.
pub fn render(
    topology: &Topology,
    services: &[Service],
    pods: &[Pod],
    masquerade: &[String],
) -> String {
    let mut nat = Table::default();
    let mut filter = Table::default();
    for chain in [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
    ] {
        nat.chain(chain);
    }
    let portals = "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES";
    nat.rule(format!("PREROUTING {portals}"));
    nat.rule(format!("OUTPUT {portals}"));
    nat.rule(
        "POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING",
    );
    nat.rule(format!("KUBE-MARK-MASQ -j MARK --or-mark {MASQ_MARK}"));
    nat.rule(format!(
        "KUBE-POSTROUTING -m mark ! --mark {MASQ_MARK}/{MASQ_MARK} -j RETURN"
    ));
    nat.rule(format!("KUBE-POSTROUTING -j MARK --xor-mark {MASQ_MARK}"));
    nat.rule(
        "KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" \
         -j MASQUERADE --random-fully",
    );
    filter_base(&mut filter);
    for service in services {
        let endpoints: Vec<Ipv4Addr> = service.endpoints(pods).iter().map(|e| e.ip).collect();
        for port in &service.ports {
            if endpoints.is_empty() {
                reject(&mut filter, service, port);
            } else {
                forward(&mut nat, topology, service, port, &endpoints);
            }
        }
    }
    nat.rule(
        "KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be \
         the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
    );
    format!(
        "{}{}",
        nat.render("nat", masquerade),
        filter.render("filter", &[])
    )
}

/// The name of the chain of a service's port: `KUBE-SVC-` and 16 characters
/// (kube-proxy, `servicePortPolicyClusterChainName`).
fn service_chain(prefix: &str, service: &Service, port: &ServicePort) -> String {
    chain(prefix, &[&port_name(service, port), port.protocol.lower()])
}

/// The base32 of a SHA-256, cut to 16 characters (kube-proxy, `portProtoHash`).
pub(crate) fn chain(prefix: &str, parts: &[&str]) -> String {
    let hash = digest(&SHA256, parts.concat().as_bytes());
    let text = BASE32.encode(hash.as_ref());
    format!("{prefix}{}", &text[..16])
}

/// `namespace/service:port`.
pub(crate) fn port_name(service: &Service, port: &ServicePort) -> String {
    format!("{}/{}:{}", service.namespace, service.name, port.name)
}

/// Rules for a port that has endpoints.
fn forward(
    nat: &mut Table,
    topology: &Topology,
    service: &Service,
    port: &ServicePort,
    endpoints: &[Ipv4Addr],
) {
    let name = port_name(service, port);
    let proto = port.protocol.lower();
    let svc = service_chain("KUBE-SVC-", service, port);
    let target = format!(
        "-d {}/32 -p {proto} -m {proto} --dport {}",
        service.cluster_ip, port.port
    );
    nat.chain(&svc);
    nat.rule(format!(
        "KUBE-SERVICES {target} -m comment --comment \"{name} cluster IP\" -j {svc}"
    ));
    if let Some(node_port) = port.node_port {
        let ext = service_chain("KUBE-EXT-", service, port);
        nat.chain(&ext);
        nat.rule(format!(
            "KUBE-NODEPORTS -p {proto} -m {proto} --dport {node_port} \
             -m comment --comment \"{name}\" -j {ext}"
        ));
        nat.rule(format!(
            "{ext} -m comment --comment \"masquerade traffic for {name} external \
             destinations\" -j KUBE-MARK-MASQ"
        ));
        nat.rule(format!("{ext} -j {svc}"));
    }
    nat.rule(format!(
        "{svc} ! -s {} {target} -m comment --comment \"{name} cluster IP\" -j KUBE-MARK-MASQ",
        topology.pod_range
    ));
    for (index, ip) in endpoints.iter().enumerate() {
        let endpoint = format!("{ip}:{}", port.target);
        let sep = chain("KUBE-SEP-", &[&name, proto, &endpoint]);
        let left = endpoints.len() - index;
        // The last one takes what is left, without dice.
        let dice = match left {
            1 => String::new(),
            left => format!(
                " -m statistic --mode random --probability {:.11}",
                1.0 / left as f64
            ),
        };
        nat.rule(format!(
            "{svc} -m comment --comment \"{name} -> {endpoint}\"{dice} -j {sep}"
        ));
        nat.chain(&sep);
        let comment = format!("-m comment --comment \"{name}\"");
        nat.rule(format!("{sep} -s {ip}/32 {comment} -j KUBE-MARK-MASQ"));
        nat.rule(format!(
            "{sep} -p {proto} -m {proto} {comment} -j DNAT --to-destination {endpoint}"
        ));
    }
}

/// Chains of the filter table and their hooks.
fn filter_base(filter: &mut Table) {
    filter.chain("KUBE-SERVICES");
    filter.chain("KUBE-FORWARD");
    filter.rule("FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD");
    for hook in ["FORWARD", "OUTPUT"] {
        filter.rule(format!(
            "{hook} -m conntrack --ctstate NEW -m comment --comment \"kubernetes service \
             portals\" -j KUBE-SERVICES"
        ));
    }
    filter.rule("KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP");
    filter.rule(format!(
        "KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" \
         -m mark --mark {MASQ_MARK}/{MASQ_MARK} -j ACCEPT"
    ));
    filter.rule(
        "KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" \
         -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    );
}

/// The rule for a port without endpoints.
fn reject(filter: &mut Table, service: &Service, port: &ServicePort) {
    let proto = port.protocol.lower();
    filter.rule(format!(
        "KUBE-SERVICES -d {}/32 -p {proto} -m {proto} --dport {} -m comment --comment \
         \"{} has no endpoints\" -j REJECT --reject-with icmp-port-unreachable",
        service.cluster_ip,
        port.port,
        port_name(service, port)
    ));
}

#[derive(Default)]
struct Table {
    chains: Vec<String>,
    rules: Vec<String>,
}

impl Table {
    fn chain(&mut self, name: &str) {
        self.chains.push(name.to_owned());
    }

    fn rule(&mut self, rule: impl Into<String>) {
        self.rules.push(format!("-A {}", rule.into()));
    }

    fn render(&self, name: &str, more: &[String]) -> String {
        let mut text = format!("*{name}\n");
        for chain in &self.chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for rule in self.rules.iter().chain(more) {
            let _ = writeln!(text, "{rule}");
        }
        text.push_str("COMMIT\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::pods::PodSpec;
    use crate::lab::{kubenet, services};

    fn pod(short: &str, ip: [u8; 4]) -> Pod {
        let spec = PodSpec::new(short, 0).app("web");
        Pod::new(spec, "x", Ipv4Addr::from(ip), "veth0".to_owned())
    }

    #[test]
    fn chains_have_the_names_that_kube_proxy_gives_them() {
        let topology = kubenet::topology();
        let services = services::standard(topology.dns, topology.gateway);
        let dns = &services[1];
        // Seen on clusters everywhere: the chains of kube-system/kube-dns.
        assert_eq!(
            service_chain("KUBE-SVC-", dns, &dns.ports[0]),
            "KUBE-SVC-TCOU7JCQXEZGVUNU"
        );
        assert_eq!(
            service_chain("KUBE-SVC-", dns, &dns.ports[1]),
            "KUBE-SVC-ERIFXISQEP7F7OF4"
        );
    }

    #[test]
    fn endpoints_share_by_dice_and_none_is_rejected() {
        let topology = kubenet::topology();
        let services = services::standard(topology.dns, topology.gateway);
        let pods = [pod("a", [10, 244, 0, 15]), pod("b", [10, 244, 0, 16])];
        let text = render(&topology, &services, &pods, &[]);
        assert_eq!(text.matches("--probability 0.50000000000").count(), 2);
        assert!(text.contains("-j DNAT --to-destination 10.244.0.15:8080"));
        assert!(text.contains("\"default/api:http has no endpoints\" -j REJECT"));
        assert!(!text.contains("default/api:http cluster IP"));
    }
}
