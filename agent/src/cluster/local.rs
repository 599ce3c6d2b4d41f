//! The node that the agent runs on, known without any API.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::flow::{Identity, Node, ObjectName, Protocol};
use crate::node::NodeView;

use super::inventory::{Inventory, is_platform};

/// This node: its name and own addresses.
#[derive(Clone, Debug, Default)]
pub struct Local {
    node: Arc<Node>,
    addresses: HashSet<IpAddr>,
}

impl Local {
    /// From the node's name and its live view.
    pub fn new(name: &str, view: &NodeView) -> Self {
        Self::with_addresses(name, view.addresses.iter().map(|(_, net)| net.addr()))
    }

    /// From the node's name and the addresses that it answers at.
    pub fn with_addresses(name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let addresses: HashSet<IpAddr> = addresses.into_iter().collect();
        let mut ips: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|ip| !ip.is_loopback())
            .collect();
        ips.sort_unstable();
        let node = Node {
            name: name.to_owned(),
            ips,
            ..Node::default()
        };
        Self {
            node: Arc::new(node),
            addresses,
        }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// The node's own addresses, loopback excepted, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.node.ips.iter().copied()
    }

    /// Whether this is one of the node's own addresses.
    pub fn owns(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addresses.contains(&ip)
    }

    /// Whose address it was at that time; the node's own are known whatever the API says.
    pub fn identify(&self, inventory: &Inventory, ip: IpAddr, at: SystemTime) -> Identity {
        if self.owns(ip) && !is_platform(ip) {
            let known = inventory.node(&self.node.name);
            return Identity::Node(known.unwrap_or(&self.node).clone());
        }
        inventory.identify(ip, at)
    }

    /// The service of an address and port; node ports of this node's own addresses included.
    pub fn service(
        &self,
        inventory: &Inventory,
        ip: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<ObjectName> {
        inventory.service(ip, port, protocol).or_else(|| {
            let own = self.owns(ip).then(|| inventory.node_port(port, protocol));
            own.flatten()
        })
    }
}
