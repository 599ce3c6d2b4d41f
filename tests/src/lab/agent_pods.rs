//! The agents' pods, as `deploy/` makes them, and the way to the ports of pods.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::netns::Netns;
use super::{Lab, names, objects};

/// The namespace of `deploy/`.
const NAMESPACE: &str = "nodescope";

/// The port of the agents' pods for the Hubble API, on loopback.
pub const HUBBLE_PORT: u16 = 4244;

/// Something that listens on the same machine answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Lab {
    /// Tells the API server of the agent's pod on node `index`: what the DaemonSet of `deploy/`
    /// would have made. Whether an agent runs there is another matter.
    pub fn announce_agent(&self, index: usize) -> Result<()> {
        let node = &self.topology.nodes[index];
        let template = daemonset()?["spec"]["template"].take();
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE}, "status": {"phase": "Active"},
        });
        let mut pod = objects::host_network_pod(node, NAMESPACE, "nodescope");
        pod["metadata"]["labels"] = template["metadata"]["labels"].clone();
        pod["spec"] = template["spec"].clone();
        pod["spec"]["nodeName"] = json!(node.name);
        let plane = self.control_plane()?;
        if let Some(real) = plane.real() {
            real.start_kubelet(node.ip, self.node(index))?;
        }
        plane.apply(namespace)?;
        plane.apply(pod)
    }

    /// The pod's name on node `index`.
    pub fn agent_pod(&self, index: usize) -> String {
        objects::host_network_pod_name(&self.topology.nodes[index], "nodescope")
    }

    /// Lets the lab's own API server forward the ports of pods.
    pub(super) fn reach_pods(&self) {
        let lab = self.name.clone();
        let nodes: Vec<String> = self.topology.nodes.iter().map(|n| n.name.clone()).collect();
        if let Some(api) = self.api() {
            api.reach_pods_by(Box::new(move |pod, port| {
                connect(&netns_of(&lab, &nodes, pod)?, port)
            }));
        }
    }
}

/// The namespace that a pod's ports are in. Only pods on their node's network are looked for.
fn netns_of(lab: &str, nodes: &[String], pod: &Value) -> io::Result<Netns> {
    let named = pod["spec"]["nodeName"].as_str();
    let index = nodes.iter().position(|node| Some(node.as_str()) == named);
    match index {
        Some(index) if pod["spec"]["hostNetwork"] == true => {
            let role = super::topology::node_role(index);
            Ok(Netns::named(names::namespace(lab, &role)))
        }
        _ => Err(io::Error::other("the lab knows no network of this pod")),
    }
}

/// Connects to a port of a namespace's loopback.
pub(crate) fn connect(netns: &Netns, port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connected = netns.enter(|| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT));
    connected.map_err(io::Error::other).flatten()
}

fn daemonset() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/daemonset.yaml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_yaml_ng::from_str(&text).with_context(|| format!("reading {}", path.display()))
}
