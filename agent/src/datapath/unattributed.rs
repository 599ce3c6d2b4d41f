//! Packets that are in no record.

use std::collections::HashMap;
use std::io;

use nodescope_ebpf::{Counter, Reason, UnattributedKey};

use super::pods::{CounterPod, UnattributedPod};
use super::{Datapath, Error, UNATTRIBUTED};

impl Datapath {
    /// Packets in no record, by hook and reason: sums over all CPUs, since the load.
    ///
    /// # Errors
    ///
    /// The kernel refuses the look-up.
    pub fn unattributed(&self) -> Result<Vec<(UnattributedKey, Counter)>, Error> {
        let failed = |error: aya::maps::MapError| Error::Map {
            map: UNATTRIBUTED,
            source: io::Error::other(error),
        };
        let mut found: HashMap<UnattributedKey, Counter> = HashMap::new();
        for entry in self.unattributed.iter() {
            let (key, values) = entry.map_err(failed)?;
            found.insert(key.0, sum(values.iter()));
        }
        for ifindex in self.attached.interfaces() {
            for egress in [false, true] {
                let segments = self.offload.segments(ifindex, egress).map_err(failed)?;
                if segments > 0 {
                    let key = UnattributedKey {
                        ifindex,
                        egress: u8::from(egress),
                        reason: Reason::Offload as u8,
                        reserved: 0,
                    };
                    found.entry(key).or_default().packets += segments;
                }
            }
        }
        for reason in Reason::ALL {
            let values = self.unplaced.get(&(reason as u32), 0).map_err(failed)?;
            let counter = sum(values.iter());
            if counter != Counter::default() {
                let key = UnattributedKey {
                    reason: reason as u8,
                    ..UnattributedKey::default()
                };
                found.insert(key, counter);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Forgets the unattributed counters of an interface that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        self.offload.forget(ifindex, &self.attached.interfaces());
        for egress in [0, 1] {
            for reason in Reason::ALL {
                let key = UnattributedKey {
                    ifindex,
                    egress,
                    reason: reason as u8,
                    reserved: 0,
                };
                // Most are not there.
                let _ = self.unattributed.remove(&UnattributedPod(key));
            }
        }
    }
}

pub(super) fn sum<'a>(values: impl Iterator<Item = &'a CounterPod>) -> Counter {
    values.fold(Counter::default(), |mut sum, value| {
        sum.packets += value.0.packets;
        sum.bytes += value.0.bytes;
        sum
    })
}
