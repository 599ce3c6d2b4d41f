//! Hooks follow the interfaces: on as soon as one is there, forgotten when it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use crate::datapath::Side;
use crate::flow::{InterfaceInfo, Moment, Role};
use crate::node::{self, Interface, NodeView};

impl Engine {
    /// Makes hooks and interfaces agree.
    pub fn reconcile(&mut self, view: &NodeView) {
        let roles = node::roles(view, &self.settings.filter);
        let attached = self.datapath.interfaces();
        if attached
            .iter()
            .any(|ifindex| !view.interfaces.contains_key(ifindex))
        {
            // The records of what is gone are still in the table.
            self.drain();
        }
        for ifindex in attached {
            if !view.interfaces.contains_key(&ifindex) {
                self.gone(ifindex);
            } else if !roles.contains_key(&ifindex) {
                tracing::info!(ifindex, "the interface is none of ours any more");
                self.datapath.detach(ifindex);
            }
        }
        self.refused
            .retain(|ifindex, _| view.interfaces.contains_key(ifindex));
        for (ifindex, role) in &roles {
            if let Some(interface) = view.interfaces.get(ifindex) {
                self.hook(interface, *role, &roles);
            }
        }
        // A bridge that is no hook of ours still names the way between its ports.
        for interface in view.interfaces.values() {
            if let Some(master) = interface.master
                && roles.contains_key(&interface.index)
                && let Some(bridge) = view.interfaces.get(&master)
            {
                self.interfaces.entry(master).or_insert(InterfaceInfo {
                    name: Arc::clone(&bridge.name),
                    role: Role::Bridge,
                    master: bridge.master,
                });
            }
        }
    }

    fn hook(&mut self, interface: &Interface, role: Role, roles: &BTreeMap<u32, Role>) {
        let info = InterfaceInfo {
            name: Arc::clone(&interface.name),
            role,
            master: interface.master,
        };
        let before = self
            .interfaces
            .insert(interface.index, info)
            .and_then(|info| info.master);
        // A port gets every frame of its wire; a bridge and an uplink see frames for others
        // only because they are promiscuous.
        let port = match role {
            Role::Pod | Role::Other => true,
            Role::Bridge => false,
            Role::Uplink => interface
                .master
                .is_some_and(|master| roles.get(&master) == Some(&Role::Bridge)),
        };
        let side = if port { Side::Port } else { Side::Host };
        let known = self.datapath.is_attached(interface.index);
        match self.datapath.attach(interface.index, &interface.name, side) {
            Ok(()) => {
                if before != interface.master {
                    self.datapath.set_master(interface.index, interface.master);
                }
                if !known {
                    tracing::debug!(interface = %interface.name, ?role, "attached");
                }
                self.refused.remove(&interface.index);
            }
            Err(error) => {
                let text = error.to_string();
                let known = self.refused.insert(interface.index, text.clone());
                if known.as_deref() != Some(text.as_str()) {
                    tracing::warn!(interface = %interface.name, "{text}");
                }
            }
        }
    }

    /// An interface took its hooks along; its records are drained.
    fn gone(&mut self, ifindex: u32) {
        let now = Moment::now();
        for key in self.tracker.keys_of(ifindex) {
            self.retire(&key, now);
        }
        self.tracker.end_at(ifindex, now.monotonic_ns);
        if self
            .interfaces
            .get(&ifindex)
            .is_some_and(|info| info.master.is_some())
        {
            self.datapath.set_master(ifindex, None);
        }
        self.datapath.detach(ifindex);
        self.datapath.forget(ifindex);
        self.hooks.remove(&ifindex);
    }

    /// Drops the names of interfaces that are gone once no connection tells of them.
    pub(super) fn forget_interfaces(&mut self) {
        let attached = self.datapath.interfaces();
        let masters: Vec<u32> = self
            .interfaces
            .iter()
            .filter(|(ifindex, _)| attached.contains(ifindex))
            .filter_map(|(_, info)| info.master)
            .collect();
        let candidates: Vec<u32> = self
            .interfaces
            .keys()
            .copied()
            .filter(|ifindex| !attached.contains(ifindex) && !masters.contains(ifindex))
            .collect();
        for ifindex in candidates {
            if !self.refused.contains_key(&ifindex) && !self.tracker.mentions(ifindex) {
                self.interfaces.remove(&ifindex);
            }
        }
    }
}
