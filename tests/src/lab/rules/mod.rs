//! iptables rules as kube-proxy's iptables mode and the network plugin write them.

mod service;
mod table;

use data_encoding::BASE32;
use ring::digest::{SHA256, digest};

use super::pods::Pod;
use super::services::{Service, ServicePort};
use super::topology::Topology;
use table::Table;

/// The mark of packets to masquerade (kube-proxy, `--iptables-masquerade-bit` 14).
const MASQ_MARK: &str = "0x4000";

/// What a node's rules are made from.
pub struct Input<'a> {
    /// The cluster's addresses.
    pub topology: &'a Topology,
    /// The index of the node.
    pub node: usize,
    /// All services.
    pub services: &'a [Service],
    /// All pods.
    pub pods: &'a [Pod],
    /// The network plugin's own rules of the nat table.
    pub masquerade: &'a [String],
}

/// The nat and filter tables of a node, as input of `iptables-restore`.
pub fn render(input: &Input) -> String {
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
    for service in input.services {
        for port in &service.ports {
            service::write(&mut nat, &mut filter, input, service, port);
        }
        if let Some(port) = service.health_check_port() {
            filter.rule(format!(
                "KUBE-NODEPORTS -p tcp -m tcp --dport {port} -m comment --comment \
                 \"{}/{} health check node port\" -j ACCEPT",
                service.namespace, service.name
            ));
        }
    }
    nat.rule(
        "KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be \
         the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
    );
    format!(
        "{}{}",
        nat.render("nat", input.masquerade),
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

/// Chains of the filter table and their hooks.
fn filter_base(filter: &mut Table) {
    for chain in [
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-FORWARD",
    ] {
        filter.chain(chain);
    }
    filter.rule(
        "INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS",
    );
    for hook in ["INPUT", "FORWARD"] {
        filter.rule(format!(
            "{hook} -m conntrack --ctstate NEW -m comment --comment \"kubernetes \
             externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES"
        ));
    }
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

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

    fn rules(services: &[Service], node: usize) -> String {
        let pods = [pod("a", [10, 244, 0, 15]), pod("b", [10, 244, 0, 16])];
        render(&Input {
            topology: &kubenet::topology(),
            node,
            services,
            pods: &pods,
            masquerade: &[],
        })
    }

    #[test]
    fn endpoints_share_by_dice_and_none_is_rejected() {
        let topology = kubenet::topology();
        let services = services::standard(topology.dns, topology.gateway);
        let text = rules(&services, 0);
        assert_eq!(text.matches("--probability 0.50000000000").count(), 2);
        assert!(text.contains("-j DNAT --to-destination 10.244.0.15:8080"));
        assert!(text.contains("\"default/api:http has no endpoints\" -j REJECT"));
        assert!(!text.contains("default/api:http cluster IP"));
    }

    #[test]
    fn policy_local_drops_where_no_endpoint_is() {
        use crate::lab::services::Protocol;
        let service = Service::new("default", "web", Ipv4Addr::new(10, 0, 9, 9))
            .port("http", Protocol::Tcp, 80, 8080)
            .load_balancer(Ipv4Addr::new(10, 224, 0, 200))
            .local(31999);
        let services = [service];
        let (here, away) = (rules(&services, 0), rules(&services, 1));
        assert!(here.contains("-j KUBE-SVL-") && !here.contains("-j DROP\n-A KUBE-EXT"));
        assert!(!here.contains("has no local endpoints"));
        assert!(away.contains("\"default/web:http has no local endpoints\" -j DROP"));
        assert!(!away.contains("KUBE-SVL-"));
        assert!(away.contains("-j KUBE-EXT-"), "pods reach the VIP anywhere");
    }
}
