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
        let there = |engine: &Self, ifindex: &u32| {
            let now = view.interfaces.get(ifindex);
            now.is_some_and(|now| engine.since.get(ifindex) == Some(&now.since))
        };
        let mut leaving = self.datapath.interfaces();
        leaving.retain(|ifindex| !there(self, ifindex) || !roles.contains_key(ifindex));
        for ifindex in &leaving {
            self.datapath.detach(*ifindex);
        }
        if !leaving.is_empty() {
            // Their records are still in the table, and nothing is added to them any more.
            self.drain();
        }
        for ifindex in leaving {
            let over = !there(self, &ifindex);
            if !over {
                tracing::info!(ifindex, "the interface is none of ours any more");
            }
            self.leave(ifindex, over);
        }
        self.refused
            .retain(|ifindex, _| roles.contains_key(ifindex));
        for (ifindex, role) in &roles {
            if let Some(interface) = view.interfaces.get(ifindex) {
                self.hook(interface, *role, view.bridge_of(interface), &roles);
            }
        }
        // A bridge that is no hook of ours still names the way between its ports.
        for interface in view.interfaces.values() {
            if roles.contains_key(&interface.index)
                && let Some(index) = view.bridge_of(interface)
                && let Some(bridge) = view.interfaces.get(&index)
            {
                self.interfaces.entry(index).or_insert(InterfaceInfo {
                    name: Arc::clone(&bridge.name),
                    role: Role::Bridge,
                    master: None,
                });
            }
        }
    }

    fn hook(
        &mut self,
        interface: &Interface,
        role: Role,
        bridge: Option<u32>,
        roles: &BTreeMap<u32, Role>,
    ) {
        let info = InterfaceInfo {
            name: Arc::clone(&interface.name),
            role,
            master: bridge,
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
            Role::Uplink | Role::Tunnel => {
                bridge.is_some_and(|bridge| roles.get(&bridge) == Some(&Role::Bridge))
            }
        };
        let side = if port { Side::Port } else { Side::Host };
        let known = self.datapath.is_attached(interface.index);
        let outcome = if interface.ethernet {
            let attached = self.datapath.attach(interface.index, &interface.name, side);
            attached.map_err(|error| error.to_string())
        } else {
            Err(format!(
                "{} carries packets without an Ethernet header, which are not read: name the \
                 device beneath it with --interfaces",
                interface.name
            ))
        };
        match outcome {
            Ok(()) => {
                self.since.insert(interface.index, interface.since);
                if !known || before != bridge {
                    self.datapath.set_master(interface.index, bridge);
                }
                if !known {
                    tracing::debug!(interface = %interface.name, ?role, "attached");
                }
                self.refused.remove(&interface.index);
            }
            Err(text) => {
                let known = self.refused.insert(interface.index, text.clone());
                if known.as_deref() != Some(text.as_str()) {
                    tracing::warn!(interface = %interface.name, "{text}");
                }
            }
        }
    }

    /// An interface has no hooks any more, and its records are drained: nothing of it stays in the
    /// kernel's tables. With `over` it is gone, and took its connections along.
    fn leave(&mut self, ifindex: u32, over: bool) {
        let now = Moment::now();
        for key in self.tracker.keys_of(ifindex) {
            self.retire(&key, now);
        }
        if over {
            self.tracker.end_at(ifindex, now.monotonic_ns);
        }
        if self
            .interfaces
            .get(&ifindex)
            .is_some_and(|info| info.master.is_some())
        {
            self.datapath.set_master(ifindex, None);
        }
        self.datapath.forget(ifindex);
        self.hooks.remove(&ifindex);
        self.since.remove(&ifindex);
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
