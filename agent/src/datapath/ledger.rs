//! What has been told of the counts, beside the counts: maps of the agent's own, pinned with those
//! of the programs. The next agent goes on from there, so that after a crash nothing is told
//! twice and nothing is left out.

use std::os::fd::AsFd as _;
use std::path::Path;

use aya::Pod;
use aya::maps::MapData;
use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_map_type};
use nodescope_ebpf::{Counter, HopKey, HopRecord};

use super::pins::{Pins, Shape, namespace_cookie};
use super::{Error, batch};

const TOLD: &str = "TOLD";
const KEPT: &str = "KEPT";
const INTERFACES: &str = "INTERFACES";
const LAYOUT: &str = "LAYOUT";
/// Raise when a pinned map means something else with the same sizes.
const VERSION: u32 = 2;
/// Interfaces that are remembered.
const MOST_INTERFACES: u32 = 16_384;
/// Records that may wait for the flow log, and some.
const WAITING: u32 = 32_768;
/// Entries of a batch look-up.
const BATCH: usize = 1024;

/// What was told of a connection, under its id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// A record of the kernel's that belongs to it.
    pub key: HopKey,
    /// How often that record had begun anew.
    pub incarnation: u32,
    /// That record's first time: another one has another.
    pub first_ns: u64,
    /// The initiator's packets and bytes in all records together.
    pub forward: Counter,
    /// The answer's.
    pub reply: Counter,
}

/// A connection at a hop.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeptKey {
    /// The connection's id.
    pub connection: u64,
    /// The hop.
    pub key: HopKey,
    /// Always 0.
    pub reserved: u32,
}

/// A hop whose counts are not, or will not be, those of the kernel's record under its key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The record when this was written.
    pub record: HopRecord,
    /// What the connection had at the hop then, from `a` to `b`.
    pub ab: Counter,
    /// From `b` to `a`.
    pub ba: Counter,
}

/// An interface with hooks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Packets and bytes of records that were taken out of the kernel's table, at its ingress.
    pub ingress: Counter,
    /// At its egress.
    pub egress: Counter,
    /// Its name, zeroes at the end (`IFNAMSIZ`, uapi linux/if.h).
    pub name: [u8; 16],
    /// What it is for, in the words of who remembers it.
    pub role: u32,
    /// How its programs hang there: [`Remembered::FILTERED`], [`Remembered::QDISC`].
    pub flags: u32,
}

impl Remembered {
    /// In `flags`: by clsact filters.
    pub const FILTERED: u32 = 1;
    /// In `flags`: an agent made its clsact qdisc.
    pub const QDISC: u32 = 2;

    /// Whether it has clsact filters.
    pub fn filtered(&self) -> bool {
        self.flags & Self::FILTERED != 0
    }

    /// Whether an agent made its clsact qdisc.
    pub fn made_qdisc(&self) -> bool {
        self.flags & Self::QDISC != 0
    }
}

/// The layout of everything in the folder, and whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Layout {
    version: u32,
    reserved: u32,
    /// The network namespace's.
    cookie: u64,
}

const _: () = assert!(size_of::<Told>() == 88 && size_of::<KeptKey>() == 56);
const _: () = assert!(size_of::<Kept>() == 104 && size_of::<Remembered>() == 56);

// SAFETY: repr(C) structs of integers whose size is asserted to be the sum of their fields: no
// padding, no pointers, any bits are a value.
unsafe impl Pod for Told {}
// SAFETY: as above.
unsafe impl Pod for KeptKey {}
// SAFETY: as above.
unsafe impl Pod for Kept {}
// SAFETY: as above.
unsafe impl Pod for Remembered {}
// SAFETY: as above.
unsafe impl Pod for Layout {}

/// Everything that an earlier agent had told.
#[derive(Debug, Default)]
pub struct Saved {
    /// By connection.
    pub told: Vec<(u64, Told)>,
    /// By connection and hop.
    pub kept: Vec<(KeptKey, Kept)>,
    /// By interface index.
    pub interfaces: Vec<(u32, Remembered)>,
}

/// The maps.
#[derive(Debug)]
pub struct Ledger {
    told: MapData,
    kept: MapData,
    interfaces: MapData,
    /// Holds the lock: while something may be written here, no other agent reads it.
    _pins: Pins,
}

/// The maps of the ledger for a table of so many records and a node side of so many connections.
pub(super) fn shapes(records: u32, connections: u32) -> [Shape; 3] {
    let shape = |name, key: usize, value: usize, entries| Shape {
        name,
        key: key as u32,
        value: value as u32,
        entries,
    };
    [
        // More connections than are kept may wait for their last record, and as many records as
        // the flow log takes.
        shape(
            TOLD,
            size_of::<u64>(),
            size_of::<Told>(),
            connections.saturating_mul(2).saturating_add(WAITING),
        ),
        shape(KEPT, size_of::<KeptKey>(), size_of::<Kept>(), records),
        shape(
            INTERFACES,
            size_of::<u32>(),
            size_of::<Remembered>(),
            MOST_INTERFACES,
        ),
    ]
}

/// Whether the folder was left by an agent of this layout, in this network namespace.
pub(super) fn is_ours(pins: &Pins) -> bool {
    let Ok(map) = MapData::from_pin(pins.map(LAYOUT)) else {
        return false;
    };
    let fits = map
        .info()
        .is_ok_and(|info| info.value_size() as usize == size_of::<Layout>());
    let found = fits.then(|| batch::get::<u32, Layout>(map.fd().as_fd(), &0));
    let cookie = namespace_cookie();
    found.is_some_and(|found| {
        found.ok().flatten().is_some_and(|layout| {
            layout.version == VERSION
                && (layout.cookie == cookie || layout.cookie == 0 || cookie == 0)
        })
    })
}

impl Ledger {
    /// Opens the maps, or makes those that are not there.
    pub(super) fn open(pins: &Pins, shapes: &[Shape; 3]) -> Result<Self, Error> {
        let [told, kept, interfaces] = shapes;
        let ledger = Self {
            told: open(pins, told)?,
            kept: open(pins, kept)?,
            interfaces: open(pins, interfaces)?,
            _pins: pins.clone(),
        };
        // Last: a folder without it is not whole.
        if !pins.map(LAYOUT).exists() {
            let map = make(
                LAYOUT,
                bpf_map_type::BPF_MAP_TYPE_ARRAY,
                (size_of::<u32>() as u32, size_of::<Layout>() as u32, 1),
                0,
            )?;
            let layout = Layout {
                version: VERSION,
                reserved: 0,
                cookie: namespace_cookie(),
            };
            batch::set(map.fd().as_fd(), &0_u32, &layout).map_err(failed(LAYOUT))?;
            pin(&map, &pins.map(LAYOUT))?;
        }
        Ok(ledger)
    }

    /// Everything that is in it.
    ///
    /// # Errors
    ///
    /// The kernel refuses the look-up.
    pub fn read(&self) -> Result<Saved, Error> {
        Ok(Saved {
            told: all(&self.told).map_err(failed(TOLD))?,
            kept: all(&self.kept).map_err(failed(KEPT))?,
            interfaces: all(&self.interfaces).map_err(failed(INTERFACES))?,
        })
    }

    /// Notes what was told of connections.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn told(&self, connections: &[(u64, Told)]) -> Result<(), Error> {
        batch::set_many(self.told.fd().as_fd(), connections).map_err(failed(TOLD))
    }

    /// Forgets connections of which all is told, and what was kept of their hops.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn forget(&self, connections: &[u64], hops: &[KeptKey]) -> Result<(), Error> {
        // In this order: hops of a connection of which nothing was told would be told of.
        batch::delete_many(self.kept.fd().as_fd(), hops).map_err(failed(KEPT))?;
        batch::delete_many(self.told.fd().as_fd(), connections).map_err(failed(TOLD))
    }

    /// Notes counts that the kernel's records do not have, or will not have any more.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn keep(&self, hops: &[(KeptKey, Kept)]) -> Result<(), Error> {
        batch::set_many(self.kept.fd().as_fd(), hops).map_err(failed(KEPT))
    }

    /// Remembers interfaces.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn remember(&self, interfaces: &[(u32, Remembered)]) -> Result<(), Error> {
        batch::set_many(self.interfaces.fd().as_fd(), interfaces).map_err(failed(INTERFACES))
    }

    /// Forgets interfaces.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn forget_interfaces(&self, interfaces: &[u32]) -> Result<(), Error> {
        batch::delete_many(self.interfaces.fd().as_fd(), interfaces).map_err(failed(INTERFACES))
    }
}

/// Makes the maps anew in another size, with what is in them.
pub(super) fn resize(pins: &Pins, shapes: &[Shape; 3]) -> Result<(), Error> {
    fn moved<K: Pod + Default, V: Pod + Default>(pins: &Pins, shape: &Shape) -> Result<(), Error> {
        let path = pins.map(shape.name);
        let failed = |error: &dyn std::error::Error| Error::Pins {
            path: path.clone(),
            reason: super::chain(error),
        };
        let old = MapData::from_pin(&path).map_err(|error| failed(&error))?;
        let entries = all::<K, V>(&old).map_err(|error| failed(&error))?;
        let map = made(shape)?;
        // What finds no room in a smaller one was told as well as can be.
        for portion in entries.chunks(BATCH) {
            if batch::set_many(map.fd().as_fd(), portion).is_err() {
                break;
            }
        }
        std::fs::remove_file(&path).map_err(|error| failed(&error))?;
        pin(&map, &path)
    }
    let [told, kept, interfaces] = shapes;
    moved::<u64, Told>(pins, told)?;
    moved::<KeptKey, Kept>(pins, kept)?;
    moved::<u32, Remembered>(pins, interfaces)
}

/// Interfaces that an agent's folder remembers.
pub(super) fn remembered(pins: &Pins) -> Vec<(u32, Remembered)> {
    let map = MapData::from_pin(pins.map(INTERFACES)).ok();
    map.filter(|map| {
        map.info()
            .is_ok_and(|info| info.value_size() as usize == size_of::<Remembered>())
    })
    .and_then(|map| all(&map).ok())
    .unwrap_or_default()
}

fn all<K: Pod + Default, V: Pod + Default>(map: &MapData) -> std::io::Result<Vec<(K, V)>> {
    let mut found = Vec::new();
    batch::Batches::<K, V>::new(BATCH).for_each(map.fd().as_fd(), |key, value| {
        found.push((*key, *value));
    })?;
    Ok(found)
}

fn open(pins: &Pins, shape: &Shape) -> Result<MapData, Error> {
    let path = pins.map(shape.name);
    if path.exists() {
        return MapData::from_pin(&path).map_err(|error| Error::Pins {
            path,
            reason: super::chain(&error),
        });
    }
    let map = made(shape)?;
    pin(&map, &path)?;
    Ok(map)
}

fn made(shape: &Shape) -> Result<MapData, Error> {
    make(
        shape.name,
        bpf_map_type::BPF_MAP_TYPE_HASH,
        (shape.key, shape.value, shape.entries),
        BPF_F_NO_PREALLOC,
    )
}

fn make(
    name: &str,
    kind: bpf_map_type,
    (key, value, entries): (u32, u32, u32),
    flags: u32,
) -> Result<MapData, Error> {
    let map = aya_obj::Map::new_from_params(kind as u32, key, value, entries, flags);
    MapData::create(map, name, None).map_err(|error| Error::Load(super::chain(&error)))
}

fn pin(map: &MapData, path: &Path) -> Result<(), Error> {
    map.pin(path).map_err(|error| Error::Pins {
        path: path.to_owned(),
        reason: super::chain(&error),
    })
}

fn failed(map: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Map { map, source }
}
