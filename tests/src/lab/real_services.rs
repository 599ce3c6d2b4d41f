//! Services where a real control plane is: its controllers and kube-proxies do the work, the lab
//! tells them of the objects and waits.

use std::collections::BTreeSet;

use anyhow::Result;

use super::control_plane::Who;
use super::netns::Netns;
use super::pods::Pod;
use super::services::{Service, ServicePort};
use super::{API_ON_NODE, Lab, objects, rules};
use crate::real::{Expected, PortRules, RealControlPlane};

impl Lab {
    /// Starts kube-proxy on each node. Does nothing without a real control plane.
    pub(super) fn start_proxies(&self) -> Result<()> {
        let (Some(real), Some(api)) = (self.real(), &self.api) else {
            return Ok(());
        };
        let kubeconfig = self.run_dir().join("kube-proxy.kubeconfig");
        let url = format!("https://{API_ON_NODE}");
        std::fs::write(&kubeconfig, api.kubeconfig(&url, Who::Proxy)?)?;
        for index in 0..self.topology.nodes.len() {
            let node = self.node(index);
            let log = self.log_base(&format!("node{index}-kube-proxy"));
            real.proxies()
                .start(&self.topology, index, &node, &kubeconfig, &log)?;
        }
        Ok(())
    }

    /// Tells the API server of `services` and waits until every node's rules lead to `pods`.
    /// `masquerade` are the network plugin's rules, which are not kube-proxy's.
    pub(super) fn sync_real(
        &self,
        real: &RealControlPlane,
        services: &[Service],
        pods: &[Pod],
        masquerade: &[String],
    ) -> Result<()> {
        let nodes = 0..self.topology.nodes.len();
        let spaces: Vec<Netns> = nodes.clone().map(|index| self.node(index)).collect();
        real.plugin_rules().write(&spaces, masquerade)?;
        let mut expected = Expected::new();
        for service in services {
            self.apply(|| objects::service(service))?;
            // The controller writes those of services that select their pods.
            if service.selector.is_none() {
                self.apply(|| objects::endpoint_slice(&self.topology, service, pods))?;
            }
            for port in &service.ports {
                let name = rules::port_name(service, port);
                let rules = port_rules(service, port, &name, pods);
                expected.insert(name, rules);
            }
        }
        for (index, space) in nodes.zip(&spaces) {
            real.proxies().wait(space, &expected)?;
            for service in services {
                if let Some(port) = service.health_check_port() {
                    let local = service.endpoints(pods);
                    let local = local.iter().filter(|endpoint| {
                        endpoint.ready() && endpoint.pod.map(Pod::node) == Some(index)
                    });
                    real.proxies().wait_health(space, port, local.count())?;
                }
            }
        }
        Ok(())
    }
}

/// What kube-proxy writes for a port of a service.
fn port_rules(service: &Service, port: &ServicePort, name: &str, pods: &[Pod]) -> PortRules {
    let endpoints = service.endpoints(pods);
    let ready = endpoints.iter().filter(|endpoint| endpoint.ready());
    let endpoints = ready.map(|endpoint| {
        let target = format!("{}:{}", endpoint.ip, port.target);
        rules::chain("KUBE-SEP-", &[name, port.protocol.lower(), &target])
    });
    let endpoints: BTreeSet<String> = endpoints.collect();
    let served = !endpoints.is_empty();
    PortRules {
        endpoints,
        // Without endpoints there is nothing but a refusal.
        vip: service.vip.filter(|_| served),
        node_port: port.node_port.filter(|_| served),
    }
}
