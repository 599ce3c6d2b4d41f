//! Packets that died, from the kernel's records to flow records.

use std::collections::BTreeMap;
use std::sync::Arc;

use nodescope_ebpf::drop::{DropKey, DropRecord, Ignored};

use super::Engine;
use crate::datapath::{self, Dropped, Symbols};
use crate::flow::{self, Counts, Direction, Drop, Flow, Loss, Moment, Role, Traffic};

/// What is known of the kernel's drops.
#[derive(Default)]
pub struct Drops {
    kernel: Option<datapath::Drops>,
    /// Why drops are not seen.
    off: Option<String>,
    symbols: Symbols,
    reasons: BTreeMap<u32, Arc<str>>,
}

/// The same, for metrics and `nodescope node`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropStatus {
    /// Why drops are not seen; `None` when they are.
    pub off: Option<String>,
    /// Whether this kernel says why it drops.
    pub reasons: bool,
    /// Packets by reason that found the table full, since the start.
    pub unplaced: Vec<(String, u64)>,
    /// Freed packets that were no loss of this node, by kind, since the start.
    pub ignored: Vec<(&'static str, u64)>,
}

impl Drops {
    /// Begins; a kernel that does not let it is no failure.
    pub(super) fn begin(datapath: &mut datapath::Datapath) -> Self {
        let (kernel, off) = match datapath.drops() {
            Ok(kernel) => (Some(kernel), None),
            Err(why) => {
                tracing::warn!(%why, "packets that the kernel drops are not seen");
                (None, Some(why))
            }
        };
        if kernel.as_ref().is_some_and(|kernel| !kernel.has_reasons()) {
            tracing::info!("this kernel does not say why it drops packets (before 5.17)");
        }
        Self {
            kernel,
            off,
            ..Self::default()
        }
    }

    /// Waits until a kind of loss begins that was not known; for ever when none are seen.
    pub(super) async fn begun(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            match kernel.begun().await {
                Ok(()) => return,
                // The drain sees them too, only later.
                Err(error) => tracing::warn!(%error, "drops are told of at every drain only"),
            }
        }
        std::future::pending().await
    }

    pub(super) fn status(&self) -> DropStatus {
        let Some(kernel) = &self.kernel else {
            return DropStatus {
                off: self.off.clone(),
                ..DropStatus::default()
            };
        };
        DropStatus {
            off: None,
            reasons: kernel.has_reasons(),
            unplaced: kernel.unplaced(),
            ignored: Ignored::NAMES.into_iter().zip(kernel.ignored()).collect(),
        }
    }

    fn drain(&mut self, new: bool, now: Moment) -> Vec<Dropped> {
        let Some(kernel) = &mut self.kernel else {
            return Vec::new();
        };
        kernel.drain(new, now.monotonic_ns).unwrap_or_else(|error| {
            tracing::warn!(%error, "reading what was dropped");
            Vec::new()
        })
    }

    fn reason(&mut self, number: u32) -> Arc<str> {
        let kernel = &self.kernel;
        let word = || {
            kernel
                .as_ref()
                .map_or_else(String::new, |kernel| kernel.reason(number))
        };
        Arc::clone(self.reasons.entry(number).or_insert_with(|| word().into()))
    }
}

impl Engine {
    /// Records of packets that died since the last time; with `new` only of kinds of loss that
    /// were not known then.
    pub(super) fn dropped(&mut self, drops: &mut Drops, new: bool) -> Vec<Flow> {
        let now = Moment::now();
        let lost = drops.drain(new, now);
        lost.iter()
            .filter_map(|one| self.loss(drops, one, now))
            .collect()
    }

    /// `None` for what happened behind an interface that leads to no pod.
    fn loss(&self, drops: &mut Drops, one: &Dropped, now: Moment) -> Option<Flow> {
        let Dropped { key, record, .. } = one;
        let in_pod = key.host_ifindex != 0;
        let index = if in_pod {
            key.host_ifindex
        } else {
            key.ifindex
        };
        let near = self.interfaces.get(&index);
        if in_pod && near.is_none_or(|info| info.role != Role::Pod) {
            return None;
        }
        let drop = Drop {
            reason: drops.reason(key.reason),
            interface: name(record),
            in_pod,
            direction: direction(key),
            function: drops.symbols.function(record.location),
        };
        let counts = |packets, bytes| Counts { packets, bytes };
        let loss = Loss {
            key,
            first_ns: record.first_ns,
            counts: Traffic {
                delta: counts(one.packets, one.bytes),
                total: counts(record.packets, record.bytes),
            },
            drop,
            near: near.map(|info| (Arc::clone(&info.name), index, info.role)),
            connection: self.tracker.find(&flow::conversation(key)),
        };
        Some(flow::dropped(loss, &self.settings.node, now))
    }
}

fn direction(key: &DropKey) -> Direction {
    if key.egress == 0 {
        Direction::Ingress
    } else {
        Direction::Egress
    }
}

/// The interface's name, which ends at the first zero.
fn name(record: &DropRecord) -> Arc<str> {
    let bytes = record.interface.split(|byte| *byte == 0).next();
    String::from_utf8_lossy(bytes.unwrap_or_default()).into()
}
