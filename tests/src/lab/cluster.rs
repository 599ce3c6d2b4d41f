//! The cluster's life: pods come and go, services follow, nodes and API server are told.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::control_plane::Who;
use super::masq::MasqConfig;
use super::netns::{self, Netns};
use super::pods::{self, Pod, PodSpec};
use super::process::{Finished, Proc, lab_command};
use super::relay::Relay;
use super::services::Service;
use super::{API_ON_NODE, Lab, READY_TIMEOUT, objects, rules, run_dir, wait_for};

/// Names outside the cluster that the lab's DNS knows, under the domain that RFC 2606 keeps
/// for examples.
const VM_NAME: &str = "vm.vnet.example.com";
const ONPREM_NAME: &str = "db.corp.example.com";

impl Lab {
    /// Starts a pod: when this returns it can send, its servers listen, the services that
    /// select it lead to it, and the API server knows it.
    pub fn add_pod(&self, spec: PodSpec) -> Result<Pod> {
        let mut pods = self.add_pods(vec![spec])?;
        pods.pop().context("no pod was made")
    }

    /// Starts several pods at once.
    pub fn add_pods(&self, specs: Vec<PodSpec>) -> Result<Vec<Pod>> {
        let mut added = Vec::new();
        for spec in specs {
            added.push(self.register(spec)?);
        }
        let spaces: Vec<String> = added.iter().map(|p| p.netns().name().to_owned()).collect();
        netns::create(&spaces)?;
        for pod in &added {
            self.connect(pod)?;
        }
        for index in 0..self.topology.nodes.len() {
            let here = added.iter().filter(|pod| pod.node() == index);
            let ports: Vec<String> = here.map(|p| p.host_interface().to_owned()).collect();
            if self.wiring.has_bridge() && !ports.is_empty() {
                self.wait_forwarding(&self.node(index), &ports)?;
            }
        }
        for pod in &added {
            if let Some(args) = &pod.spec().entrypoint {
                let process = self.spawn(&pod.netns(), lab_command(args)?)?;
                self.lock().entrypoints.insert(pod.role(), process);
            }
        }
        self.write_zone()?;
        let logs = self.run_dir().join("logs");
        let mut started: Vec<(String, Vec<Proc>)> = Vec::new();
        for pod in &added {
            started.push((pod.role(), pod.start_programs(&logs)?));
        }
        for (role, mut processes) in started {
            pods::wait_listening(&mut processes)?;
            self.lock().processes.insert(role, processes);
        }
        for pod in &added {
            self.apply(|| objects::pod(&self.topology, pod))?;
        }
        self.sync_services()?;
        Ok(added)
    }

    /// Waits for the end of the entrypoint of pod `short`.
    pub fn finished(&self, short: &str) -> Result<Finished> {
        let role = self.pod(short)?.role();
        let process = self.lock().entrypoints.remove(&role);
        let mut process = process.with_context(|| format!("pod '{short}' has no entrypoint"))?;
        let status = process.wait(READY_TIMEOUT)?;
        Ok(Finished {
            status: status.with_context(|| format!("the entrypoint of '{short}' still runs"))?,
            stdout: process.stdout(),
            stderr: process.stderr(),
        })
    }

    /// Ends a pod: its object first, as the kubelet does, then everything else of it.
    pub fn remove_pod(&self, short: &str) -> Result<()> {
        let pod = self.pod(short)?;
        if let Some(api) = &self.api {
            api.delete("Pod", &pod.spec().namespace, &pod.name())?;
        }
        let ended = {
            let mut state = self.lock();
            state.pods.retain(|other| other.short() != short);
            (
                state.processes.remove(&pod.role()),
                state.entrypoints.remove(&pod.role()),
            )
        };
        self.sync_services()?;
        drop(ended);
        if let Some(route) = self.vnet_route(&pod) {
            self.fabric().ip(&[format!("route del {route}")])?;
        }
        run_dir::remove_netns(&pod.netns())
    }

    /// Adds a service; nodes and API server learn of it.
    pub fn add_service(&self, service: Service) -> Result<()> {
        self.lock().services.push(service);
        self.write_zone()?;
        self.sync_services()
    }

    /// Writes services, EndpointSlices, the nodes' iptables rules, health checks and probes from
    /// what there is.
    pub fn sync_services(&self) -> Result<()> {
        let (pods, services, masq) = {
            let state = self.lock();
            (
                state.pods.clone(),
                state.services.clone(),
                state.masq.clone(),
            )
        };
        let masquerade = self.wiring.masquerade_rules(&self.topology, masq.as_ref());
        if let Some(real) = self.real() {
            self.sync_real(real, &services, &pods, &masquerade)?;
            return self.sync_daemons(&pods, &services);
        }
        for node in 0..self.topology.nodes.len() {
            let input = rules::Input {
                topology: &self.topology,
                node,
                services: &services,
                pods: &pods,
                masquerade: &masquerade,
            };
            let text = rules::render(&input);
            self.node(node).tool(&["iptables-restore"], &text)?;
        }
        for service in &services {
            self.apply(|| objects::service(service))?;
            self.apply(|| objects::endpoint_slice(&self.topology, service, &pods))?;
        }
        self.sync_daemons(&pods, &services)
    }

    /// Tells the API server of what does not change: namespaces, nodes, hostNetwork pods.
    pub(super) fn apply_static_objects(&self) -> Result<()> {
        for object in objects::namespaces() {
            self.apply(|| object)?;
        }
        for node in &self.topology.nodes {
            self.apply(|| objects::node(node))?;
            for object in objects::host_network_pods(node) {
                self.apply(|| object)?;
            }
        }
        let masq = self.masq_config();
        let mut maps = masq.iter().flat_map(MasqConfig::config_maps);
        maps.try_for_each(|map| self.apply(|| map))
    }

    /// Makes the API server reachable on each node's loopback, and for kubectl outside.
    pub(super) fn start_relays(&self) -> Result<()> {
        let (Some(api), Some(path), Some(node_path)) = (
            &self.api,
            self.kubeconfig_path(),
            self.node_kubeconfig_path(),
        ) else {
            return Ok(());
        };
        let outside = format!("https://{}", api.address()?);
        std::fs::write(path, api.kubeconfig(&outside, Who::Admin)?)?;
        let inside = format!("https://{API_ON_NODE}");
        std::fs::write(node_path, api.kubeconfig(&inside, Who::Agent)?)?;
        for index in 0..self.topology.nodes.len() {
            let relay = Relay::start(&self.node(index), API_ON_NODE, api.address()?)?;
            if let Ok(mut relays) = self.relays.lock() {
                relays.push(relay);
            }
        }
        Ok(())
    }

    /// Waits until the bridge forwards on all of `ports`.
    pub(super) fn wait_forwarding(&self, netns: &Netns, ports: &[String]) -> Result<()> {
        let forwards = |port: &String| -> Result<bool> {
            let link = netns.ip_json(&["-d", "link", "show", "dev", port])?;
            Ok(link[0]["linkinfo"]["info_slave_data"]["state"] == "forwarding")
        };
        for port in ports {
            wait_for(&format!("{port} to forward"), READY_TIMEOUT, || {
                forwards(port).unwrap_or(false)
            })?;
        }
        Ok(())
    }

    /// Gives the pod its address and interface name, and takes it into the state.
    fn register(&self, spec: PodSpec) -> Result<Pod> {
        let mut state = self.lock();
        let Some(node) = self.topology.nodes.get(spec.node) else {
            bail!("pod '{}': the lab has no node {}", spec.short, spec.node);
        };
        if state.pods.iter().any(|pod| pod.short() == spec.short) {
            bail!("pod '{}' is there already", spec.short);
        }
        let used = |ip: Ipv4Addr| state.pods.iter().any(|pod| pod.ip() == ip);
        let mut free = node.pod_addresses().filter(|ip| !used(*ip));
        let ip = match spec.ip {
            Some(ip) if used(ip) => bail!("pod '{}': {ip} is in use", spec.short),
            Some(ip) => ip,
            None => free
                .next()
                .with_context(|| format!("no free pod address on {}", node.name))?,
        };
        let seed = format!("{}/{}/{ip}", spec.namespace, spec.short);
        let pod = Pod::new(spec, &self.name, ip, self.wiring.host_interface(&seed));
        state.pods.push(pod.clone());
        Ok(pod)
    }

    /// Makes the pod's interface.
    fn connect(&self, pod: &Pod) -> Result<()> {
        let node = &self.topology.nodes[pod.node()];
        let space = pod.netns();
        let lines = self.wiring.pod_lines(node, pod, space.name());
        let host = self.node(pod.node());
        host.ip(&lines.node)?;
        let settings = lines.node_sysctls.iter();
        let settings: Vec<_> = settings.map(|(k, v)| (k.as_str(), v.as_str())).collect();
        host.sysctls(&settings)?;
        if let Some(route) = self.vnet_route(pod) {
            self.fabric().ip(&[format!("route add {route}")])?;
        }
        space.ip(&lines.pod)
    }

    /// How the network delivers to `pod`: by an entry of its own where pods are in the nodes'
    /// subnet, as the secondary addresses of Azure's interfaces are.
    pub(super) fn vnet_route(&self, pod: &Pod) -> Option<String> {
        let node = &self.topology.nodes[pod.node()];
        match node.pod_cidr {
            Some(_) => None,
            None => Some(format!("{}/32 via {}", pod.ip(), node.ip)),
        }
    }

    /// Writes what the DNS server knows: a JSON object of name to addresses.
    fn write_zone(&self) -> Result<()> {
        let mut zone = Map::new();
        for service in &self.lock().services {
            let name = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
            zone.insert(name, json!([service.cluster_ip]));
        }
        zone.insert(VM_NAME.to_owned(), json!([self.topology.vm.ip()]));
        zone.insert(ONPREM_NAME.to_owned(), json!([self.topology.onprem.ip()]));
        // Renamed into place: the server never reads half of it.
        let path = self.run_dir().join("zone.json");
        let new = path.with_extension("new");
        std::fs::write(&new, Value::Object(zone).to_string())?;
        std::fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// Tells the API server, where there is one, of an object.
    pub(super) fn apply(&self, object: impl FnOnce() -> Value) -> Result<()> {
        match &self.api {
            Some(api) => api.apply(object()),
            None => Ok(()),
        }
    }
}
