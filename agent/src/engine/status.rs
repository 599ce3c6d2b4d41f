//! What the engine knows of itself, for metrics and `nodescope node`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nodescope_ebpf::{EventKind, Reason};

use super::drops::{DropStatus, Drops};
use super::{Engine, GivenUp};
use crate::datapath::ProgramCost;
use crate::flow::{Counts, Direction, Role};

/// One hook: an interface's ingress or egress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookStatus {
    /// Packets and bytes in records.
    pub attributed: Counts,
    /// Packets and bytes in none, by the reason's word.
    pub unattributed: BTreeMap<&'static str, Counts>,
    /// Segments beyond the first of offloaded packets: by so many `attributed` exceeds what the
    /// interface counts.
    pub offload: u64,
}

impl HookStatus {
    /// What the hook saw, as the interface counts it.
    pub fn seen(&self) -> Counts {
        let mut seen = Counts {
            packets: self.attributed.packets.saturating_sub(self.offload),
            ..self.attributed
        };
        for (reason, counts) in &self.unattributed {
            // What only passed the queue of a bridge the interface does not count.
            if *reason != Reason::Bridged.name() {
                seen += *counts;
            }
        }
        seen
    }
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: Arc<str>,
    /// What it is for.
    pub role: Role,
    /// `tcx`, `clsact`, or why it has no hooks.
    pub attached: Result<&'static str, String>,
    /// Its ingress.
    pub ingress: HookStatus,
    /// Its egress.
    pub egress: HookStatus,
}

/// The engine at a moment.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether the engine has looked at the interfaces at all.
    pub started: bool,
    /// Interfaces with hooks, or that should have them.
    pub interfaces: Vec<InterfaceStatus>,
    /// Packets in no record whose hook has no counter of its own.
    pub unplaced: BTreeMap<&'static str, Counts>,
    /// Records in the kernel's table at the last drain.
    pub table_entries: u64,
    /// How many it holds.
    pub table_limit: u64,
    /// Connections that are known.
    pub connections: u64,
    /// Events that found the ring full, by kind, since the start.
    pub events_lost: Vec<(&'static str, u64)>,
    /// How long each drain since the last status took.
    pub drains: Vec<Duration>,
    /// Look-ups that the kernel refused, since the start.
    pub drain_failures: u64,
    /// What was given up for want of room, since the start.
    pub given_up: GivenUp,
    /// What the programs cost; none while the kernel keeps no statistics.
    pub programs: Vec<ProgramCost>,
    /// Why translations are not read from packets; `None` when they are.
    pub nat_off: Option<String>,
    /// Whether they are taken from conntrack's events.
    pub nat_by_netlink: bool,
    /// Packets that the kernel dropped.
    pub drops: DropStatus,
}

impl Engine {
    /// The engine now. Durations of drains are handed out once.
    pub(super) fn status(&mut self, drops: &Drops) -> Status {
        let unattributed = self.datapath.unattributed().unwrap_or_else(|error| {
            self.drain.failures += 1;
            tracing::warn!(%error, "reading what is in no record");
            Vec::new()
        });
        let hook = |ifindex: u32, direction: Direction| {
            let (ingress, egress) = self.hooks.get(&ifindex).copied().unwrap_or_default();
            let egress_side = direction == Direction::Egress;
            let mut status = HookStatus {
                attributed: if egress_side { egress } else { ingress },
                ..HookStatus::default()
            };
            for (key, counter) in &unattributed {
                if key.ifindex != ifindex || (key.egress == 1) != egress_side {
                    continue;
                }
                if key.reason == Reason::Offload as u8 {
                    status.offload = counter.packets;
                } else {
                    let counts = counts(counter);
                    status.unattributed.insert(word(key.reason), counts);
                }
            }
            status
        };
        let mut interfaces: Vec<_> = self
            .interfaces
            .iter()
            .filter_map(|(ifindex, info)| {
                let attached = match self.refused.get(ifindex) {
                    Some(why) => Err(why.clone()),
                    None => Ok(self.datapath.method_at(*ifindex)?.name()),
                };
                Some(InterfaceStatus {
                    ifindex: *ifindex,
                    name: Arc::clone(&info.name),
                    role: info.role,
                    attached,
                    ingress: hook(*ifindex, Direction::Ingress),
                    egress: hook(*ifindex, Direction::Egress),
                })
            })
            .collect();
        interfaces.sort_by_key(|one| (one.role, one.ifindex));
        Status {
            started: true,
            interfaces,
            unplaced: unattributed
                .iter()
                .filter(|(key, _)| key.ifindex == 0)
                .map(|(key, counter)| (word(key.reason), counts(counter)))
                .collect(),
            table_entries: self.drain.entries as u64,
            table_limit: u64::from(self.datapath.capacity()),
            connections: self.tracker.len() as u64,
            events_lost: EventKind::NAMES
                .into_iter()
                .zip(self.datapath.lost())
                .collect(),
            drains: std::mem::take(&mut self.drain.durations),
            drain_failures: self.drain.failures,
            given_up: GivenUp {
                layout: self.datapath.given_up(),
                ..self.pressure.given_up()
            },
            programs: self.datapath.costs(),
            nat_off: self.datapath.nat_off().map(str::to_owned),
            nat_by_netlink: self.entries.is_some(),
            drops: drops.status(),
        }
    }
}

fn counts(counter: &nodescope_ebpf::Counter) -> Counts {
    Counts {
        packets: counter.packets,
        bytes: counter.bytes,
    }
}

fn word(reason: u8) -> &'static str {
    Reason::ALL
        .get(usize::from(reason))
        .map_or("unknown", |reason| reason.name())
}
