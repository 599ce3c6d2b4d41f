//! What services and checks know of this node, behind one handle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::checks::{self, Check, Conntrack, Facts, Finding, Recent};
use super::dns::{Answers, Outcome, Questions};
use super::nat::Translations;
use super::probes::{Probes, Report as ProbeReport, Target};
use super::services::{Health, Report, ServiceInsight};
use crate::cluster::{Inventory, Local};
use crate::datapath::Head;
use crate::flow::{Flow, Moment, ProbeStatus};
use crate::node::NodeView;

/// What is known of this node. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Here(Arc<Parts>);

struct Parts {
    node: String,
    inventory: Arc<ArcSwap<Inventory>>,
    nodes: watch::Receiver<Arc<NodeView>>,
    translations: Translations,
    probes: Probes,
    services: ServiceInsight,
    recent: Recent,
    dns: Mutex<Answers>,
    questions: Mutex<Questions>,
}

impl Here {
    /// For the node of this name; nothing seen yet.
    pub fn new(
        node: &str,
        inventory: Arc<ArcSwap<Inventory>>,
        nodes: watch::Receiver<Arc<NodeView>>,
        translations: Translations,
        probes: Probes,
    ) -> Self {
        Self(Arc::new(Parts {
            node: node.to_owned(),
            inventory,
            nodes,
            translations,
            probes,
            services: ServiceInsight::default(),
            recent: Recent::default(),
            dns: Mutex::default(),
            questions: Mutex::default(),
        }))
    }

    /// Takes in a flow that has its names and its expectation.
    pub fn observe(&self, flow: &Arc<Flow>, inventory: &Inventory, local: &Local) {
        self.0.services.observe(flow, inventory, local);
        self.0.recent.push(flow, Moment::now().monotonic_ns);
    }

    /// Takes heads of payload in.
    pub fn heads(&self, heads: &[Head]) {
        let (mut dns, mut questions) = (self.dns(), self.questions());
        for head in heads {
            dns.take(head);
            questions.take(head);
        }
    }

    /// What became of DNS questions since the last record of a flow; `None` for other flows.
    pub fn dns_outcome(&self, flow: &Flow) -> Option<Outcome> {
        self.questions().outcome(flow)
    }

    fn dns(&self) -> MutexGuard<'_, Answers> {
        // Each head is taken in whole.
        self.0.dns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        let locked = self.0.questions.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// Services as this node sees them, by name.
    pub fn services(&self) -> Vec<Report> {
        let inventory = self.0.inventory.load();
        let probes = self.0.probes.report(Moment::now());
        let mut services = self.0.services.reports(&inventory, &self.0.node);
        for report in &mut services {
            report.health = health(report, &probes);
        }
        services
    }

    /// Makes the checks of these names, all of them when none is named. What can run out counts
    /// as full from `full_percent` on.
    ///
    /// # Errors
    /// When a name is none.
    pub fn check(
        &self,
        names: &[String],
        full_percent: u32,
    ) -> Result<Vec<(&'static Check, Finding)>, String> {
        let now = Moment::now();
        let inventory = self.0.inventory.load();
        let view = self.0.nodes.borrow().clone();
        let ports = self.0.translations.ports();
        let facts = Facts {
            node: &self.0.node,
            now,
            flows: &self.0.recent.flows(now.monotonic_ns),
            inventory: &inventory,
            view: &view,
            probes: &self.0.probes.report(now),
            snat_ports: ports.into_iter().max_by_key(|one| one.ports),
            more_ports: self.0.translations.is_full(),
            dns: &self.dns(),
            full_percent: u64::from(full_percent),
            services: &self.services(),
            conntrack: Conntrack::read(),
        };
        checks::run(names, &facts)
    }
}

/// What the service's health-check port on this node answered last.
fn health(report: &Report, probes: &[ProbeReport]) -> Option<Health> {
    let wanted = report.service.health_check_node_port?;
    let last = probes.iter().find_map(|probe| {
        let is_it = matches!(&probe.target, Target::Lb { port, .. } if *port == wanted);
        probe.last.as_ref().filter(|_| is_it)
    })?;
    let ProbeStatus::Http(status) = last.status else {
        return None;
    };
    Some(Health {
        status,
        local_endpoints: last.health.map(|health| health.local_endpoints),
    })
}
