//! Packets that the kernel gave up: the tracepoint `skb:kfree_skb`, counted by tuple, place and
//! reason.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::linux::fs::MetadataExt as _;

use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::RawTracePoint;
use nodescope_ebpf::drop::{DropKey, DropRecord, Ignored, UNPLACED_REASONS};

use super::batch::{self, Batches, Taken};
use super::btf::{Btf, DropTypes};
use super::pods::{CounterPod, DropKeyPod, DropOffsetsPod, DropPod};
use super::ring::Ring;
use super::unattributed::sum;
use super::{Datapath, Error, chain, typed};

const DROPS: &str = "DROPS";
const DROPS_UNPLACED: &str = "DROPS_UNPLACED";
const DROPS_IGNORED: &str = "DROPS_IGNORED";
const DROP_EVENTS: &str = "DROP_EVENTS";
pub(super) const OFFSETS: &str = "DROP_OFFSETS";
const TRACEPOINT: &str = "kfree_skb";
/// A loss that did not go on for so long leaves the kernel's table.
const IDLE_NS: u64 = 30_000_000_000;

/// What the running kernel tells of drops, found before the load.
pub(super) struct Plan {
    pub(super) types: Result<DropTypes, String>,
}

impl Plan {
    /// By the running kernel's types, or why they are not to be had.
    pub(super) fn of(kernel: Result<&Btf, &String>) -> Self {
        let netns = std::fs::metadata("/proc/self/ns/net")
            .map(|found| found.st_ino() as u32)
            .map_err(|error| format!("/proc/self/ns/net: {error}"));
        let types = netns.and_then(|netns| {
            let kernel = kernel.map_err(String::clone)?;
            let mut types = kernel.drops().map_err(|error| error.to_string())?;
            types.offsets.netns = netns;
            Ok(types)
        });
        Self { types }
    }

    pub(super) fn offsets(&self) -> DropOffsetsPod {
        let offsets = self.types.as_ref().map(|types| types.offsets);
        DropOffsetsPod(offsets.unwrap_or_default())
    }

    /// Loads and attaches the program that fits this kernel; gives how many reasons it has.
    pub(super) fn attach(&self, ebpf: &mut aya::Ebpf) -> Result<usize, String> {
        let reasons = self.types.as_ref().map_err(String::clone)?.reasons.len();
        let name = if reasons == 0 {
            "drop_plain"
        } else {
            "drop_reason"
        };
        let program: &mut RawTracePoint = ebpf
            .program_mut(name)
            .ok_or_else(|| Error::Incomplete("drop_reason").to_string())?
            .try_into()
            .map_err(|error: aya::programs::ProgramError| chain(&error))?;
        program.load().map_err(|error| chain(&error))?;
        program.attach(TRACEPOINT).map_err(|error| chain(&error))?;
        Ok(reasons)
    }
}

/// One kind of loss: what came since it was last told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Tuple, place and reason.
    pub key: DropKey,
    /// The kernel's record as it is now; counts since the first.
    pub record: DropRecord,
    /// Packets since the last time.
    pub packets: u64,
    /// Bytes since the last time.
    pub bytes: u64,
}

impl Datapath {
    /// Begins to count packets that the kernel gives up; once.
    ///
    /// # Errors
    ///
    /// Why drops are not seen on this kernel, for people; everything else goes on.
    pub fn drops(&mut self) -> Result<Drops, String> {
        let plan = self.drops.take().ok_or("they are counted already")?;
        Drops::attach(&mut self.ebpf, plan)
    }

    /// Whether drops can be counted here: how many reasons the kernel has for them.
    ///
    /// # Errors
    ///
    /// As [`Datapath::drops`].
    pub(super) fn try_drops(&mut self) -> Result<usize, String> {
        let plan = self.drops.take().ok_or("they are counted already")?;
        plan.attach(&mut self.ebpf)
    }
}

/// The kernel's drops, as they are counted.
pub struct Drops {
    types: DropTypes,
    ring: Ring,
    table: MapData,
    batches: Batches<DropKeyPod, DropPod>,
    known: HashMap<DropKey, DropRecord>,
    unplaced: PerCpuArray<MapData, CounterPod>,
    ignored: PerCpuArray<MapData, u64>,
}

impl Drops {
    /// Loads and attaches the program that fits this kernel, and takes its maps.
    pub(super) fn attach(ebpf: &mut aya::Ebpf, plan: Plan) -> Result<Self, String> {
        plan.attach(ebpf)?;
        let types = plan.types?;
        let Some(Map::HashMap(table)) = ebpf.take_map(DROPS) else {
            return Err(Error::Incomplete(DROPS).to_string());
        };
        let text = |error: Error| error.to_string();
        Ok(Self {
            types,
            ring: Ring::take(ebpf, DROP_EVENTS).map_err(text)?,
            table,
            batches: Batches::new(512),
            known: HashMap::new(),
            unplaced: typed(ebpf, DROPS_UNPLACED).map_err(text)?,
            ignored: typed(ebpf, DROPS_IGNORED).map_err(text)?,
        })
    }

    /// Whether this kernel says why.
    pub fn has_reasons(&self) -> bool {
        !self.types.reasons.is_empty()
    }

    /// The kernel's word for a reason, for example `NETFILTER_DROP`.
    pub fn reason(&self, number: u32) -> String {
        if !self.has_reasons() {
            return "UNKNOWN".to_owned();
        }
        // The upper half is the number of a subsystem with reasons of its own.
        self.types
            .reasons
            .get(&number)
            .cloned()
            .unwrap_or_else(|| format!("SUBSYSTEM_{}_{}", number >> 16, number & 0xffff))
    }

    /// Waits until a kind of loss that was not known begins.
    ///
    /// # Errors
    ///
    /// The descriptor of the ring fails.
    pub async fn begun(&mut self) -> std::io::Result<()> {
        self.ring.next(usize::MAX, |_| Some(())).await.map(drop)
    }

    /// What was lost since the last time, or of that only what is `new` since then; what did not
    /// go on leaves the kernel's table.
    ///
    /// # Errors
    ///
    /// The kernel refuses the look-up.
    pub fn drain(&mut self, new: bool, now_ns: u64) -> Result<Vec<Dropped>, Error> {
        let failed = |source| Error::Map { map: DROPS, source };
        let mut news = Vec::new();
        let mut idle = Vec::new();
        let known = &self.known;
        self.batches
            .for_each(self.table.fd().as_fd(), |key, record| {
                let (key, record) = (key.0, record.0);
                let before = known.get(&key);
                if before.is_none_or(|before| !new && *before != record) {
                    news.push((key, record));
                } else if before == Some(&record) && now_ns.saturating_sub(record.last_ns) > IDLE_NS
                {
                    idle.push(key);
                }
            })
            .map_err(failed)?;
        let mut gone = Vec::new();
        for key in idle {
            let table = self.table.fd().as_fd();
            match batch::take::<DropKeyPod, DropPod>(table, &DropKeyPod(key)).map_err(failed)? {
                // What came since the look-up is in what was taken.
                Taken::Entry(record) if self.known.get(&key) != Some(&record.0) => {
                    news.push((key, record.0));
                }
                Taken::Entry(_) | Taken::Missing => {}
                // Kernels before 5.14: it stays. Should the table fill, losses are counted by
                // reason alone.
                Taken::Unsupported => break,
            }
            gone.push(key);
        }
        let told = news
            .into_iter()
            .map(|(key, record)| self.tell(key, record))
            .collect();
        for key in &gone {
            self.known.remove(key);
        }
        Ok(told)
    }

    fn tell(&mut self, key: DropKey, record: DropRecord) -> Dropped {
        let before = self.known.insert(key, record).unwrap_or_default();
        // Another first time: the kernel's entry was taken out and made anew.
        let base = if before.first_ns == record.first_ns {
            before
        } else {
            DropRecord::default()
        };
        Dropped {
            key,
            record,
            packets: record.packets.saturating_sub(base.packets),
            bytes: record.bytes.saturating_sub(base.bytes),
        }
    }

    /// Packets by reason that found the table full, since the load.
    pub fn unplaced(&self) -> Vec<(String, u64)> {
        (0..UNPLACED_REASONS)
            .filter_map(|number| {
                let values = self.unplaced.get(&number, 0).ok()?;
                let packets = sum(values.iter()).packets;
                let other = number == UNPLACED_REASONS - 1;
                (packets > 0).then(|| {
                    let name = if other {
                        "OTHER".to_owned()
                    } else {
                        self.reason(number)
                    };
                    (name, packets)
                })
            })
            .collect()
    }

    /// Freed packets that were no loss of this node, by [`Ignored`], since the load.
    pub fn ignored(&self) -> [u64; Ignored::COUNT as usize] {
        std::array::from_fn(|kind| {
            let values = self.ignored.get(&(kind as u32), 0);
            values.map_or(0, |values| values.iter().sum())
        })
    }
}
