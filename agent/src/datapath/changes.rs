//! Which records changed, as the kernel side tells: once a [round](nodescope_ebpf::rounds) of each.
//! So what many quiet connections have in the table need not be read to find what few do.

use aya::maps::{Array, Map, MapData, RingBuf};
use nodescope_ebpf::{HopKey, rounds};

use super::events::key;
use super::{Error, typed};

const CHANGED: &str = "CHANGED";
const MISSED: &str = "MISSED";
/// The section of the kernel side's only variable, the round.
const ROUND: &str = ".bss";

/// The kernel side's word of changes.
pub(super) struct Changes {
    ring: RingBuf<MapData>,
    missed: Array<MapData, u32>,
    round: Array<MapData, u32>,
    now: u8,
    before: u8,
}

impl Changes {
    /// Takes ring and round out of the object. Rounds begin at `seed`: not where those of an agent
    /// before began, whose records may still say when they were told of.
    pub(super) fn take(ebpf: &mut aya::Ebpf, seed: u64) -> Result<Self, Error> {
        let ring: Map = ebpf.take_map(CHANGED).ok_or(Error::Incomplete(CHANGED))?;
        let mut changes = Self {
            ring: RingBuf::try_from(ring).map_err(|error| Error::Load(error.to_string()))?,
            missed: typed(ebpf, MISSED)?,
            round: typed(ebpf, ROUND)?,
            now: (seed % u64::from(u8::MAX)) as u8,
            before: 0,
        };
        changes.begin()?;
        Ok(changes)
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.before = self.now;
        self.now = rounds::after(self.now);
        let map = ROUND;
        self.round
            .set(0, u32::from(self.now), 0)
            .map_err(|error| Error::Map {
                map,
                source: std::io::Error::other(error),
            })
    }

    /// Begins another round, and shows the records that changed in the one before, some of them
    /// maybe twice; false when they are not all.
    ///
    /// # Errors
    ///
    /// The kernel refuses; then nothing is known.
    pub(super) fn next(&mut self, mut see: impl FnMut(HopKey)) -> Result<bool, Error> {
        self.begin()?;
        while let Some(item) = self.ring.next() {
            let mut bytes = &*item;
            if bytes.len() >= size_of::<HopKey>() {
                see(key(&mut bytes));
            }
        }
        let missed = self.missed.get(&0, 0).map_err(|error| Error::Map {
            map: MISSED,
            source: std::io::Error::other(error),
        })?;
        // One that was told late may say so only after the last look.
        Ok(missed == 0 || ![self.now, self.before].map(u32::from).contains(&missed))
    }
}
