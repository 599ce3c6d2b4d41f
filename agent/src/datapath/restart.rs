//! From one agent to the next: what is pinned is taken over, what does not fit is replaced.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use nodescope_ebpf::{HopKey, HopRecord, NatRecord};

use super::ledger::{self, Ledger, Remembered};
use super::pins::{self, Left, Pins, Shape};
use super::pods::{Key, NatValue, Record};
use super::{Datapath, Error, HOPS, NAT, Settings, attach, batch, chain};

/// Maps of the programs that the next agent takes over. The others hold nothing that counts.
const PINNED: [&str; 9] = [
    "HOPS",
    "NAT",
    "EXTRA",
    "FRAGMENTS",
    "UNATTRIBUTED",
    "UNPLACED",
    "PORTS",
    "PORT_SLOTS",
    "OFFLOAD",
];

/// What an earlier agent left, and what this one leaves.
#[derive(Default)]
pub(super) struct Restart {
    /// `None` where nothing is pinned.
    pins: Option<Pins>,
    shapes: Option<[Shape; 3]>,
    keep: bool,
    ledger: Option<Arc<Ledger>>,
    /// A table of another size, which the programs write to until they are replaced.
    earlier: Option<Earlier>,
    filtered: HashSet<u32>,
    taken_over: bool,
    given_up: u64,
}

/// Records that no program writes to any more.
struct Earlier {
    hops: MapData,
    nat: Option<BpfHashMap<MapData, Key, NatValue>>,
}

impl Restart {
    /// Takes the folder, and removes from it what this agent cannot use.
    pub(super) fn begin(
        settings: &Settings,
        object: &[u8],
        sizes: &[(&str, u32)],
    ) -> Result<Self, Error> {
        let Some(pinning) = &settings.pinning else {
            return Ok(Self::default());
        };
        let Some(pins) = Pins::open(&pinning.folder)? else {
            return Ok(Self::default());
        };
        let capacity = sizes.first().map_or(0, |(_, entries)| *entries);
        let shapes = ledger::shapes(capacity, settings.max_connections);
        let mut restart = Self {
            keep: pinning.keep,
            ..Self::default()
        };
        let all: Vec<Shape> = own_shapes(object, sizes)?
            .into_iter()
            .chain(shapes.clone())
            .collect();
        let left = pins.compare(&all);
        restart.filtered = ledger::remembered(&pins)
            .into_iter()
            .filter(|(_, interface)| interface.filtered())
            .map(|(ifindex, _)| ifindex)
            .collect();
        match left {
            Left::Nothing => {}
            Left::Same if ledger::is_ours(&pins) => restart.taken_over = true,
            Left::Resized if ledger::is_ours(&pins) => {
                tracing::info!(
                    "the pinned tables have another size: they are read to their end and replaced"
                );
                restart.earlier = Earlier::open(&pins);
                restart.taken_over = true;
                for (name, _) in sizes {
                    // A file that stays is found by the load.
                    let _ = std::fs::remove_file(pins.map(name));
                }
                ledger::resize(&pins, &shapes)?;
            }
            Left::Same | Left::Resized | Left::Other => {
                let (files, records) = pins.clear(HOPS);
                restart.given_up = records;
                tracing::warn!(
                    files,
                    records,
                    "what was pinned has another layout, that of another version of nodescope: it \
                     is replaced, and what its records had not told yet is lost"
                );
            }
        }
        restart.pins = Some(pins);
        restart.shapes = Some(shapes);
        Ok(restart)
    }

    /// Maps to be taken over or pinned, and their files.
    pub(super) fn maps(&self) -> Vec<(&'static str, PathBuf)> {
        let pins = self.pins.iter();
        pins.flat_map(|pins| PINNED.map(|name| (name, pins.map(name))))
            .collect()
    }

    /// Opens the ledger, once the programs' maps are there.
    pub(super) fn ready(mut self) -> Result<Self, Error> {
        if let (Some(pins), Some(shapes)) = (&self.pins, &self.shapes) {
            self.ledger = Some(Arc::new(Ledger::open(pins, shapes)?));
        }
        Ok(self)
    }

    /// Interfaces that have clsact filters of an earlier agent.
    pub(super) fn filtered(&self) -> HashSet<u32> {
        self.filtered.clone()
    }

    pub(super) fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }
}

impl Earlier {
    fn open(pins: &Pins) -> Option<Self> {
        let hops = MapData::from_pin(pins.map(HOPS)).ok()?;
        let nat = MapData::from_pin(pins.map(NAT)).ok();
        let nat = nat.and_then(|data| BpfHashMap::try_from(Map::HashMap(data)).ok());
        Some(Self { hops, nat })
    }
}

/// The programs' maps that are pinned, as the object has them.
fn own_shapes(object: &[u8], sizes: &[(&str, u32)]) -> Result<Vec<Shape>, Error> {
    let object = aya_obj::Object::parse(object).map_err(|error| Error::Load(chain(&error)))?;
    PINNED
        .into_iter()
        .map(|name| {
            let map = object.maps.get(name).ok_or(Error::Incomplete(name))?;
            let size = sizes.iter().find(|(sized, _)| *sized == name);
            Ok(Shape {
                name,
                key: map.key_size(),
                value: map.value_size(),
                entries: size.map_or(map.max_entries(), |(_, entries)| *entries),
            })
        })
        .collect()
}

impl Datapath {
    /// Where it is noted what was told; `None` where nothing is pinned.
    pub fn ledger(&self) -> Option<Arc<Ledger>> {
        self.restart.ledger.clone()
    }

    /// Whether maps of an earlier agent are in use.
    pub fn taken_over(&self) -> bool {
        self.restart.taken_over
    }

    /// Records of an earlier agent whose layout this one does not understand.
    pub fn given_up(&self) -> u64 {
        self.restart.given_up
    }

    /// A record as it was left, with its conntrack tuples.
    pub fn left(&self, key: &HopKey) -> Option<(HopRecord, Option<NatRecord>)> {
        match &self.restart.earlier {
            Some(earlier) => {
                let record = batch::get::<Key, Record>(earlier.hops.fd().as_fd(), &Key(*key));
                let nat = earlier.nat.as_ref();
                let nat = nat.and_then(|nat| nat.get(&Key(*key), 0).ok());
                Some((record.ok().flatten()?.0, nat.map(|nat| nat.0)))
            }
            None => Some((self.hop(key)?, self.nat(key))),
        }
    }

    /// All records of a table that was replaced, once no program writes to it any more.
    ///
    /// # Errors
    ///
    /// The kernel refuses the look-up.
    pub fn take_earlier(&mut self) -> Result<Vec<(HopKey, HopRecord, Option<NatRecord>)>, Error> {
        let Some(earlier) = self.restart.earlier.take() else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        self.batches
            .for_each(earlier.hops.fd().as_fd(), |key, record| {
                found.push((key.0, record.0, None));
            })
            .map_err(|source| Error::Map { map: HOPS, source })?;
        if let Some(nat) = &earlier.nat {
            for (key, _, tuples) in &mut found {
                *tuples = nat.get(&Key(*key), 0).ok().map(|nat| nat.0);
            }
        }
        Ok(found)
    }

    /// Interfaces of which an earlier agent left something: links, counters, ports of bridges.
    pub fn left_interfaces(&self) -> BTreeSet<u32> {
        let mut found = self.restart.pins.as_ref().map(Pins::linked);
        let found = found.get_or_insert_default();
        found.extend(self.unattributed.keys().flatten().map(|key| key.0.ifindex));
        found.extend(self.ports.keys().flatten());
        found.extend(&self.restart.filtered);
        std::mem::take(found)
    }

    /// The bridge that an interface is a port of, as the kernel side knows it.
    pub fn master(&self, ifindex: u32) -> Option<u32> {
        self.ports.get(&ifindex, 0).ok()
    }

    /// Takes off what an earlier agent left on an interface that has none of this one's hooks;
    /// `name` is the interface's where it is still there.
    pub fn detach_left(&mut self, ifindex: u32, name: Option<&str>) {
        if self.attached.has(ifindex) {
            return;
        }
        if let Some(pins) = &self.restart.pins {
            pins.unlink(ifindex);
        }
        if let Some(name) = name.filter(|_| self.restart.filtered.contains(&ifindex)) {
            attach::clear(name);
        }
    }

    /// Whether this process made the clsact qdisc of an interface.
    pub fn made_qdisc(&self, ifindex: u32) -> bool {
        self.attached.made_qdisc(ifindex)
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        match &self.restart.pins {
            Some(_) if self.restart.keep => self.attached.keep(),
            Some(pins) => {
                self.attached.detach_all();
                pins.clear(HOPS);
                if let Some(ledger) = self.restart.ledger.take() {
                    drop(ledger);
                }
                if let Some(pins) = self.restart.pins.take() {
                    pins::remove_folder(pins);
                }
            }
            // Links that are let go of take their programs along.
            None => {}
        }
    }
}

/// What [`detach`] removed.
#[derive(Debug, Default)]
pub struct Detached {
    /// Files: links and maps.
    pub files: usize,
    /// Interfaces whose clsact filters were removed.
    pub filters: usize,
    /// Interfaces whose clsact qdisc an agent made.
    pub qdiscs: Vec<u32>,
}

/// Removes everything that agents left in this network namespace: what is pinned under `base`,
/// and clsact filters on these interfaces, by index and name.
///
/// # Errors
///
/// An agent runs.
pub fn detach<'a>(
    base: Option<&Path>,
    interfaces: impl IntoIterator<Item = (u32, &'a str)>,
) -> Result<Detached, Error> {
    let mut done = Detached::default();
    let pins = match base {
        Some(base) => pins::existing(base)?,
        None => None,
    };
    let known = pins.as_ref().map(ledger::remembered).unwrap_or_default();
    for (ifindex, name) in interfaces {
        done.filters += usize::from(attach::clear(name));
        let made = |(index, one): &(u32, Remembered)| *index == ifindex && one.made_qdisc();
        if known.iter().any(made) {
            done.qdiscs.push(ifindex);
        }
    }
    if let Some(pins) = pins {
        done.files = pins.clear(HOPS).0;
        pins::remove_folder(pins);
    }
    Ok(done)
}
