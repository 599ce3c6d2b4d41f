//! Services where a real control plane is: its controllers and kube-proxies do the work, the lab
//! tells them of the objects and waits.

use anyhow::Result;

use super::control_plane::Who;
use super::pods::Pod;
use super::services::Service;
use super::{API_ON_NODE, Lab, objects, rules};
use crate::real::{Expected, RealControlPlane, has_rules};

impl Lab {
    /// Starts kube-proxy on each node, and writes the network plugin's rules, which are not
    /// kube-proxy's. Does nothing without a real control plane.
    pub(super) fn start_proxies(&self) -> Result<()> {
        let (Some(real), Some(api)) = (self.real(), &self.api) else {
            return Ok(());
        };
        let kubeconfig = self.run_dir().join("kube-proxy.kubeconfig");
        let url = format!("https://{API_ON_NODE}");
        std::fs::write(&kubeconfig, api.kubeconfig(&url, Who::Proxy)?)?;
        let masquerade = self.wiring.masquerade_rules(&self.topology).join("\n");
        for index in 0..self.topology.nodes.len() {
            let node = self.node(index);
            let text = format!("*nat\n{masquerade}\nCOMMIT\n");
            node.tool(&["iptables-restore", "--noflush"], &text)?;
            let log = self.log_base(&format!("node{index}-kube-proxy"));
            real.proxies()
                .start(&self.topology, index, &node, &kubeconfig, &log)?;
        }
        Ok(())
    }

    /// Tells the API server of `services` and waits until every node's rules lead to `pods`.
    pub(super) fn sync_real(
        &self,
        real: &RealControlPlane,
        services: &[Service],
        pods: &[Pod],
    ) -> Result<()> {
        let mut expected = Expected::new();
        for service in services {
            self.apply(|| objects::service(service))?;
            // The controller writes those of services that select their pods.
            if service.selector.is_none() {
                self.apply(|| objects::endpoint_slice(&self.topology, service, pods))?;
            }
            let endpoints = service.endpoints(pods);
            for port in service.ports.iter().filter(|_| has_rules(service)) {
                let name = rules::port_name(service, port);
                let chains = endpoints.iter().map(|endpoint| {
                    let target = format!("{}:{}", endpoint.ip, port.target);
                    rules::chain("KUBE-SEP-", &[&name, port.protocol.lower(), &target])
                });
                let chains = chains.collect();
                expected.insert(name, chains);
            }
        }
        for index in 0..self.topology.nodes.len() {
            real.proxies().wait(&self.node(index), &expected)?;
        }
        Ok(())
    }
}
