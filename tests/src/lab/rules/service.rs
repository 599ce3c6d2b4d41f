//! Rules for one port of a service.

use std::net::Ipv4Addr;

use super::table::Table;
use super::{Input, chain, port_name, service_chain};
use crate::lab::services::{Service, ServicePort, TrafficPolicy};

/// Rules of both tables for `port` on the node of `input`.
pub(super) fn write(
    nat: &mut Table,
    filter: &mut Table,
    input: &Input,
    service: &Service,
    port: &ServicePort,
) {
    let ips = |node: Option<usize>| -> Vec<Ipv4Addr> {
        let usable = service.usable(input.pods, node);
        usable.iter().map(|endpoint| endpoint.ip).collect()
    };
    let (all, here) = (ips(None), ips(Some(input.node)));
    let rules = Port {
        input,
        service,
        port,
        name: port_name(service, port),
        proto: port.protocol.lower(),
    };
    if all.is_empty() {
        rules.reject(filter);
        return;
    }
    rules.cluster_ip(nat);
    rules.balance(nat, &rules.chain_name("KUBE-SVC-"), &all);
    let local = service.is_external() && service.policy == TrafficPolicy::Local;
    // An endpoint that ends is used here while there is no other, and not from elsewhere.
    let more = here.iter().filter(|ip| local && !all.contains(ip));
    for ip in all.iter().chain(more) {
        rules.endpoint(nat, *ip);
    }
    if service.is_external() {
        rules.external(nat, &here);
        if local {
            if here.is_empty() {
                rules.drop_without_local(filter);
            } else {
                rules.balance(nat, &rules.chain_name("KUBE-SVL-"), &here);
            }
        }
    }
}

struct Port<'a> {
    input: &'a Input<'a>,
    service: &'a Service,
    port: &'a ServicePort,
    name: String,
    proto: &'static str,
}

impl Port<'_> {
    fn chain_name(&self, prefix: &str) -> String {
        service_chain(prefix, self.service, self.port)
    }

    /// The chain of an endpoint.
    fn sep(&self, ip: Ipv4Addr) -> String {
        let endpoint = format!("{ip}:{}", self.port.target);
        chain("KUBE-SEP-", &[&self.name, self.proto, &endpoint])
    }

    /// The match of packets to `ip`.
    fn to(&self, ip: Ipv4Addr) -> String {
        let (proto, port) = (self.proto, self.port.port);
        format!("-d {ip}/32 -p {proto} -m {proto} --dport {port}")
    }

    /// The match of packets to the node port.
    fn to_node_port(&self, node_port: u16) -> String {
        let proto = self.proto;
        format!("-p {proto} -m {proto} --dport {node_port}")
    }

    fn cluster_ip(&self, nat: &mut Table) {
        let (name, svc) = (&self.name, self.chain_name("KUBE-SVC-"));
        let target = self.to(self.service.cluster_ip);
        nat.chain(&svc);
        nat.rule(format!(
            "KUBE-SERVICES {target} -m comment --comment \"{name} cluster IP\" -j {svc}"
        ));
        nat.rule(format!(
            "{svc} ! -s {} {target} -m comment --comment \"{name} cluster IP\" -j KUBE-MARK-MASQ",
            self.input.topology.pod_range
        ));
    }

    /// Load balancer and node port lead to the chain KUBE-EXT of the port.
    fn external(&self, nat: &mut Table, here: &[Ipv4Addr]) {
        let name = &self.name;
        let (ext, svc) = (self.chain_name("KUBE-EXT-"), self.chain_name("KUBE-SVC-"));
        nat.chain(&ext);
        if let Some(vip) = self.service.vip {
            let target = self.to(vip);
            nat.rule(format!(
                "KUBE-SERVICES {target} -m comment --comment \"{name} loadbalancer IP\" -j {ext}"
            ));
        }
        if let Some(node_port) = self.port.node_port {
            let target = self.to_node_port(node_port);
            nat.rule(format!(
                "KUBE-NODEPORTS {target} -m comment --comment \"{name}\" -j {ext}"
            ));
        }
        let comment = |text: &str| format!("-m comment --comment \"{text}\"");
        if self.service.policy == TrafficPolicy::Cluster {
            let why = comment(&format!(
                "masquerade traffic for {name} external destinations"
            ));
            nat.rule(format!("{ext} {why} -j KUBE-MARK-MASQ"));
            nat.rule(format!("{ext} -j {svc}"));
            return;
        }
        let pods = comment(&format!("pod traffic for {name} external destinations"));
        let masquerade = comment(&format!(
            "masquerade LOCAL traffic for {name} external destinations"
        ));
        let route = comment(&format!(
            "route LOCAL traffic for {name} external destinations"
        ));
        let local = "-m addrtype --src-type LOCAL";
        let range = self.input.topology.pod_range;
        nat.rule(format!("{ext} -s {range} {pods} -j {svc}"));
        nat.rule(format!("{ext} {masquerade} {local} -j KUBE-MARK-MASQ"));
        nat.rule(format!("{ext} {route} {local} -j {svc}"));
        if !here.is_empty() {
            nat.rule(format!("{ext} -j {}", self.chain_name("KUBE-SVL-")));
        }
    }

    /// Shares connections among `ips` by dice, after those that stay with their endpoint.
    fn balance(&self, nat: &mut Table, from: &str, ips: &[Ipv4Addr]) {
        nat.chain(from);
        let name = &self.name;
        let note = |ip: &Ipv4Addr| {
            let target = self.port.target;
            format!("-m comment --comment \"{name} -> {ip}:{target}\"")
        };
        if let Some(seconds) = self.service.affinity_seconds {
            for ip in ips {
                let sep = self.sep(*ip);
                nat.rule(format!(
                    "{from} {} -m recent --name {sep} --rcheck --seconds {seconds} --reap \
                     --rsource -j {sep}",
                    note(ip)
                ));
            }
        }
        for (index, ip) in ips.iter().enumerate() {
            // The last one takes what is left, without dice.
            let dice = match ips.len() - index {
                1 => String::new(),
                left => format!(
                    " -m statistic --mode random --probability {:.11}",
                    1.0 / left as f64
                ),
            };
            nat.rule(format!("{from} {}{dice} -j {}", note(ip), self.sep(*ip)));
        }
    }

    /// The chain of one endpoint: hairpin traffic is marked, everything translated.
    fn endpoint(&self, nat: &mut Table, ip: Ipv4Addr) {
        let (sep, proto) = (self.sep(ip), self.proto);
        let comment = format!("-m comment --comment \"{}\"", self.name);
        let recent = match self.service.affinity_seconds {
            Some(_) => format!(" -m recent --name {sep} --set --rsource"),
            None => String::new(),
        };
        nat.chain(&sep);
        nat.rule(format!("{sep} -s {ip}/32 {comment} -j KUBE-MARK-MASQ"));
        nat.rule(format!(
            "{sep} -p {proto} -m {proto} {comment}{recent} -j DNAT --to-destination {ip}:{}",
            self.port.target
        ));
    }

    /// Without endpoints: refused, however it is reached.
    fn reject(&self, filter: &mut Table) {
        let none = format!(
            "-m comment --comment \"{} has no endpoints\" -j REJECT \
             --reject-with icmp-port-unreachable",
            self.name
        );
        let target = self.to(self.service.cluster_ip);
        filter.rule(format!("KUBE-SERVICES {target} {none}"));
        for target in self.outside_targets() {
            filter.rule(format!("KUBE-EXTERNAL-SERVICES {target} {none}"));
        }
    }

    /// Policy Local without an endpoint here: dropped, so that the client tries again.
    fn drop_without_local(&self, filter: &mut Table) {
        for target in self.outside_targets() {
            filter.rule(format!(
                "KUBE-EXTERNAL-SERVICES {target} -m comment --comment \
                 \"{} has no local endpoints\" -j DROP",
                self.name
            ));
        }
    }

    /// Matches of packets to the load balancer and to the node port.
    fn outside_targets(&self) -> Vec<String> {
        let vip = self.service.vip.map(|vip| self.to(vip));
        let node_port = self.port.node_port.map(|port| {
            let target = self.to_node_port(port);
            format!("{target} -m addrtype --dst-type LOCAL")
        });
        vip.into_iter().chain(node_port).collect()
    }
}
