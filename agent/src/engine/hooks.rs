//! Hooks follow the interfaces: on as soon as one is there, forgotten when it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use crate::datapath::Side;
use crate::flow::{InterfaceInfo, Moment, Role};
use crate::node::{self, Interface, NodeView};

/// Interfaces that get their second hook before anything else gets its turn: with TCX each waits
/// for a grace period of RCU, milliseconds in which nothing is read and no newer one is covered.
/// When more than these come at once, theirs are clsact filters, which wait for nothing.
const AT_ONCE: usize = 8;

impl Engine {
    /// Makes hooks and interfaces agree; whether some have to wait for the next time.
    pub fn reconcile(&mut self, view: &NodeView) -> bool {
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
            self.drain_all();
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
        let waiting = self.cover(view, &roles);
        if !waiting && !self.settled {
            self.settled = true;
            self.datapath.settled();
        }
        self.save();
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
        waiting
    }

    /// Hooks for interfaces that have none, and what is known of all of them; whether some are left.
    /// Of many new ones, all are first seen receiving: a pod sends before it is sent anything.
    fn cover(&mut self, view: &NodeView, roles: &BTreeMap<u32, Role>) -> bool {
        let found = |ifindex: &u32| view.interfaces.get(ifindex);
        let begins = |engine: &Self, ifindex: &u32| {
            let begun = engine.since.contains_key(ifindex) || engine.refused.contains_key(ifindex);
            !begun && found(ifindex).is_some_and(|one| one.ethernet)
        };
        // What was there before the agent has time.
        let hurry = self.settled && roles.keys().filter(|one| begins(self, one)).count() > AT_ONCE;
        for (ifindex, role) in roles {
            let Some(interface) = found(ifindex).filter(|_| begins(self, ifindex)) else {
                continue;
            };
            let bridge = view.bridge_of(interface);
            let side = side(*role, bridge, roles);
            let name = &interface.name;
            // What is refused is told of below.
            if self
                .datapath
                .attach_ingress(*ifindex, name, side, hurry)
                .is_ok()
            {
                self.since.insert(*ifindex, interface.since);
                self.datapath.set_master(*ifindex, bridge);
                self.interfaces
                    .insert(*ifindex, info(interface, *role, bridge));
            }
        }
        let (mut room, mut waiting) = (AT_ONCE, false);
        for (ifindex, role) in roles {
            let Some(interface) = found(ifindex) else {
                continue;
            };
            let new = !self.datapath.is_attached(*ifindex) && !self.refused.contains_key(ifindex);
            if new && room == 0 {
                waiting = true;
                continue;
            }
            room -= usize::from(new);
            self.hook(interface, *role, view.bridge_of(interface), roles);
        }
        waiting
    }

    fn hook(
        &mut self,
        interface: &Interface,
        role: Role,
        bridge: Option<u32>,
        roles: &BTreeMap<u32, Role>,
    ) {
        let before = self
            .interfaces
            .insert(interface.index, info(interface, role, bridge))
            .and_then(|info| info.master);
        let side = side(role, bridge, roles);
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
                self.remember(interface.index);
                if !known {
                    tracing::debug!(interface = %interface.name, ?role, "attached");
                }
                self.refused.remove(&interface.index);
            }
            Err(text) => {
                self.since.remove(&interface.index);
                let known = self.refused.insert(interface.index, text.clone());
                if known.as_deref() != Some(text.as_str()) {
                    tracing::warn!(interface = %interface.name, "{text}");
                }
            }
        }
    }

    /// An interface has no hooks any more, and its records are drained: nothing of it stays in the
    /// kernel's tables. With `over` it is gone, and took its connections along.
    pub(super) fn leave(&mut self, ifindex: u32, over: bool) {
        let now = Moment::now();
        let keys = self.tracker.keys_of(ifindex);
        self.retire(&keys, now);
        if over {
            self.tracker.end_at(ifindex, now.monotonic_ns);
        }
        self.datapath.set_master(ifindex, None);
        self.datapath.forget(ifindex);
        self.hooks.remove(&ifindex);
        self.since.remove(&ifindex);
        self.forget_note(ifindex);
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

/// What records say of it.
fn info(interface: &Interface, role: Role, bridge: Option<u32>) -> InterfaceInfo {
    InterfaceInfo {
        name: Arc::clone(&interface.name),
        role,
        master: bridge,
    }
}

/// Which programs count at an interface of this role, a port of that bridge.
fn side(role: Role, bridge: Option<u32>, roles: &BTreeMap<u32, Role>) -> Side {
    // A port gets every frame of its wire; a bridge and an uplink see frames for others
    // only because they are promiscuous.
    let port = match role {
        Role::Pod | Role::Other => true,
        Role::Bridge => false,
        Role::Uplink | Role::Tunnel => {
            bridge.is_some_and(|bridge| roles.get(&bridge) == Some(&Role::Bridge))
        }
    };
    if port { Side::Port } else { Side::Host }
}
