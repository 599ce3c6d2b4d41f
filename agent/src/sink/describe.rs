//! What `nodescope node` shows: the node, its interfaces and the agent's own state.

mod addresses;
mod interfaces;
mod pods;

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::proto::node::{ApiState, DescribeResponse, FlowTable, ProgramCost};
use crate::cluster::{Inventory, WatchErrors};
use crate::config::Cidrs;
use crate::datapath;
use crate::engine::Status;
use crate::insight::nat::InForce;
use crate::node::{self, NodeView};

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// When the agent started.
    pub started: SystemTime,
    /// Whether there is an API to ask.
    pub api: bool,
    /// Ranges that the configuration gives.
    pub overrides: Cidrs,
}

/// Puts together what the rooms know.
pub struct Describer {
    facts: NodeFacts,
    nodes: watch::Receiver<Arc<NodeView>>,
    statuses: watch::Receiver<Arc<Status>>,
    inventory: Arc<ArcSwap<Inventory>>,
    errors: Arc<WatchErrors>,
}

impl Describer {
    /// Reads from the rooms whenever it is asked.
    pub fn new(
        facts: NodeFacts,
        nodes: watch::Receiver<Arc<NodeView>>,
        statuses: watch::Receiver<Arc<Status>>,
        inventory: Arc<ArcSwap<Inventory>>,
        errors: Arc<WatchErrors>,
    ) -> Self {
        Self {
            facts,
            nodes,
            statuses,
            inventory,
            errors,
        }
    }

    /// The node now.
    pub fn describe(&self) -> DescribeResponse {
        let view = self.nodes.borrow().clone();
        let status = self.statuses.borrow().clone();
        let inventory = self.inventory.load();
        let pod_cidrs = self.pod_cidrs(&inventory);
        let model = node::model(&view, pod_cidrs.first().copied());
        let in_force = InForce::new(&inventory, model.kind);
        let masquerade = addresses::masquerade(&in_force);
        DescribeResponse {
            name: self.facts.name.clone(),
            addresses: node_addresses(&view),
            network_model: model.kind.to_string(),
            evidence: model.evidence,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel(),
            started: Some(self.facts.started.into()),
            nat_source: match &status.nat_off {
                None => "skb".to_owned(),
                Some(why) if status.nat_by_netlink => format!("netlink (not skb: {why})"),
                Some(why) => format!("off: {why}"),
            },
            interfaces: interfaces::all(&status, &view, &inventory),
            notes: interfaces::notes(&status, &view, &inventory, &self.facts.name),
            flow_table: Some(FlowTable {
                entries: status.table_entries,
                limit: status.table_limit,
            }),
            programs: status.programs.iter().map(program).collect(),
            api: Some(self.api(&inventory)),
            pod_cidrs: pod_cidrs.iter().map(ToString::to_string).collect(),
            non_masquerade_cidrs: masquerade.non_masquerade_cidrs.clone(),
            pods: pods::paths(&view, &inventory, &self.facts.name),
            pod_addresses: Some(addresses::pod_addresses(
                &view,
                &inventory,
                &self.facts.name,
                own_range(&inventory, &self.facts.name),
            )),
            masquerade: Some(masquerade),
            address_classes: addresses::classes(
                &view,
                &inventory,
                &pod_cidrs,
                &self.facts.overrides.node,
                &self.facts.overrides.service,
            ),
        }
    }

    fn pod_cidrs(&self, inventory: &Inventory) -> Vec<ipnet::IpNet> {
        if self.facts.overrides.pod.is_empty() {
            inventory
                .pod_cidr_of(&self.facts.name)
                .into_iter()
                .collect()
        } else {
            self.facts.overrides.pod.clone()
        }
    }

    fn api(&self, inventory: &Inventory) -> ApiState {
        let failures: Vec<_> = self
            .errors
            .counts()
            .filter(|(_, count)| *count > 0)
            .collect();
        let detail = if failures.is_empty() {
            inventory
                .counts()
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect::<Vec<_>>()
                .join(", ")
        } else {
            failures
                .iter()
                .map(|(kind, count)| format!("{kind}: {count} failed requests"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let state = match (self.facts.api, inventory.is_complete(), failures.is_empty()) {
            (false, _, _) => "off",
            (true, true, _) => "synced",
            (true, false, true) => "connecting",
            (true, false, false) => "failing",
        };
        ApiState {
            state: state.to_owned(),
            detail: if self.facts.api {
                detail
            } else {
                String::new()
            },
        }
    }
}

/// The range that is this node's alone: `--pod-cidr` is the whole cluster's.
fn own_range(inventory: &Inventory, node: &str) -> Option<ipnet::IpNet> {
    let ranges = &inventory.node(node)?.pod_cidrs;
    let v4 = ranges.iter().find(|range| range.addr().is_ipv4());
    v4.or(ranges.first()).copied()
}

fn program(cost: &datapath::ProgramCost) -> ProgramCost {
    ProgramCost {
        program: cost.program.clone(),
        runs: cost.runs,
        nanoseconds: u64::try_from(cost.time.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// Addresses of the uplinks; of everything but loopback where there is none.
fn node_addresses(view: &NodeView) -> Vec<String> {
    let uplinks: Vec<_> = view
        .uplinks()
        .flat_map(|ifindex| view.addresses_of(ifindex))
        .collect();
    let mut found: Vec<String> = if uplinks.is_empty() {
        view.addresses
            .iter()
            .map(|(_, net)| net.addr())
            .filter(|ip| !ip.is_loopback())
            .map(|ip| ip.to_string())
            .collect()
    } else {
        uplinks.iter().map(|net| net.addr().to_string()).collect()
    };
    found.dedup();
    found
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
