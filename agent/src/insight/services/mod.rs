//! Services: what each connection to one came to, against what its policy promises.
//!
//! The emitter shows every named flow to [`ServiceInsight::observe`]; [`ServiceInsight::reports`]
//! puts what was counted beside what the API says.

mod observed;
mod report;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cluster::{Inventory, Local};
use crate::flow::{Flow, ObjectName};

use observed::Counted;
pub use observed::{Client, Observed, Seen, seen};
pub use report::{Agreement, Health, Report, policy};

/// What was seen of the services since the agent started.
#[derive(Debug, Default)]
pub struct ServiceInsight(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By service; one that the API deleted is dropped when reports are made.
    services: HashMap<ObjectName, Observed>,
    /// Open connections; as many as the flow room keeps, for it closes each that it opens.
    counted: Counted,
}

impl ServiceInsight {
    /// Takes in a flow that has its names.
    pub fn observe(&self, flow: &Flow, inventory: &Inventory, local: &Local) {
        let Some(name) = &flow.destination_service else {
            return;
        };
        let mut state = self.lock();
        if !state.counted.is_news(flow) {
            return;
        }
        let service = inventory.service_named(name);
        if let Some(seen) = seen(flow, service, local.name()) {
            state
                .services
                .entry(name.clone())
                .or_default()
                .add(seen, flow);
        }
    }

    /// All services that have an address, by name.
    pub fn reports(&self, inventory: &Inventory, node: &str) -> Vec<Report> {
        let mut state = self.lock();
        state
            .services
            .retain(|name, _| inventory.service_named(name).is_some());
        let addressed = inventory
            .services()
            .iter()
            .filter(|service| !service.cluster_ips.is_empty() || !service.external_ips.is_empty());
        addressed
            .map(|service| {
                let observed = state.services.get(&service.name).cloned();
                Report::new(service, observed.unwrap_or_default(), inventory, node)
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters: nothing is left half-done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
