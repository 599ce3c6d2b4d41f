//! The agent's side of the tables that the programs find without a hash.

use aya::maps::{Array, MapData, MapError, PerCpuArray, PerCpuValues};
use nodescope_ebpf::slots::{self, OffloadSlot};

use super::pods::OffloadPod;

/// Segments beyond the first of offloaded packets.
pub struct Offload(PerCpuArray<MapData, OffloadPod>);

impl Offload {
    /// Reads from this map.
    pub fn new(map: PerCpuArray<MapData, OffloadPod>) -> Self {
        Self(map)
    }

    /// The segments of a hook, of all CPUs.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn segments(&self, ifindex: u32, egress: bool) -> Result<u64, MapError> {
        let owner = slots::owner(ifindex, egress);
        let values = self.0.get(&slots::of(owner), 0)?;
        let own = values.iter().filter(|slot| slot.0.owner == owner);
        Ok(own.map(|slot| slot.0.segments).sum())
    }

    /// Frees the slots of an interface that is gone. Where one of `others`, the interfaces that
    /// have hooks, shares a slot with it, that stays as it is: it may be counting.
    pub fn forget(&mut self, ifindex: u32, others: &[u32]) {
        for egress in [false, true] {
            let slot = slots::of(slots::owner(ifindex, egress));
            let shared = others
                .iter()
                .any(|other| *other != ifindex && slots::of(slots::owner(*other, egress)) == slot);
            if shared {
                continue;
            }
            let empty = aya::util::nr_cpus().map(|cpus| vec![OffloadPod::default(); cpus]);
            let result = empty
                .map_err(|(_, error)| error)
                .and_then(PerCpuValues::try_from);
            if let Ok(values) = result
                && let Err(error) = self.0.set(slot, values, 0)
            {
                tracing::debug!(ifindex, %error, "the slot of an interface that is gone stays");
            }
        }
    }
}

/// Which interfaces may be ports of bridges.
pub struct PortSlots(Array<MapData, u32>);

impl PortSlots {
    /// Writes to this map.
    pub fn new(map: Array<MapData, u32>) -> Self {
        Self(map)
    }

    /// Some interface with the slot of this one is a port, or none is.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn set(&mut self, ifindex: u32, any: bool) -> Result<(), MapError> {
        self.0.set(slots::of_port(ifindex), u32::from(any), 0)
    }
}

const _: () = assert!(size_of::<OffloadSlot>() == size_of::<OffloadPod>());
