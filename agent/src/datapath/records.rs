//! The records of the kernel's table: read, told of as changed, taken out.

use std::os::fd::AsFd as _;

use nodescope_ebpf::extra::Extra;
use nodescope_ebpf::{HopKey, HopRecord, NatRecord, NatState};

use super::pods::{ExtraPod, Key, Record};
use super::{Cursor, Datapath, EXTRA, Error, HOPS, batch, programs};

impl Datapath {
    /// Puts the next records into `records`, in place of what is there; false at the end.
    ///
    /// # Errors
    ///
    /// The kernel refuses the look-up.
    pub fn read(
        &mut self,
        cursor: &mut Cursor,
        records: &mut Vec<(HopKey, HopRecord)>,
    ) -> Result<bool, Error> {
        records.clear();
        let found = self
            .batches
            .next(self.hops.fd().as_fd(), cursor)
            .map_err(|source| Error::Map { map: HOPS, source })?;
        let Some(found) = found else {
            return Ok(false);
        };
        records.extend(found.map(|(key, record)| (key.0, record.0)));
        Ok(true)
    }

    /// Shows records that changed since the last call, some of them maybe twice; false when they are
    /// not all, and all records are to be read. New ones are told of by [`Events`] instead, and may
    /// have changed since they were.
    ///
    /// # Errors
    ///
    /// The kernel refuses; then nothing is known.
    pub fn changes(&mut self, see: impl FnMut(HopKey)) -> Result<bool, Error> {
        self.changes.next(see)
    }

    /// Shows every record.
    ///
    /// # Errors
    ///
    /// The kernel refuses the look-up.
    pub fn for_each(&mut self, mut see: impl FnMut(&HopKey, &HopRecord)) -> Result<(), Error> {
        let (mut cursor, mut records) = (Cursor::default(), Vec::new());
        while self.read(&mut cursor, &mut records)? {
            records.iter().for_each(|(key, record)| see(key, record));
        }
        Ok(())
    }

    /// One record.
    pub fn hop(&self, key: &HopKey) -> Option<HopRecord> {
        batch::get::<Key, Record>(self.hops.fd().as_fd(), &Key(*key))
            .ok()
            .flatten()
            .map(|record| record.0)
    }

    /// The conntrack tuples of a record that says it is translated.
    pub fn nat(&self, key: &HopKey) -> Option<NatRecord> {
        self.nat.get(&Key(*key), 0).ok().map(|value| value.0)
    }

    /// What a record has that few have, when it says so.
    pub fn extra(&self, key: &HopKey) -> Option<Extra> {
        batch::get::<Key, ExtraPod>(self.extra.fd().as_fd(), &Key(*key))
            .ok()
            .flatten()
            .map(|extra| extra.0)
    }

    /// Takes a record out and gives its last state.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn take(&mut self, key: &HopKey) -> Result<Option<HopRecord>, Error> {
        let taken = match batch::take::<Key, Record>(self.hops.fd().as_fd(), &Key(*key)) {
            Ok(batch::Taken::Entry(record)) => Some(record.0),
            Ok(batch::Taken::Missing) => None,
            Ok(batch::Taken::Unsupported) => programs::take(&mut self.ebpf, key)?,
            Err(source) => return Err(Error::Map { map: HOPS, source }),
        };
        if taken.is_none_or(|record| NatState::of(record.nat) == NatState::Translated) {
            // It may not be there.
            let _ = self.nat.remove(&Key(*key));
        }
        Ok(taken)
    }

    /// Takes out what a record has that few have.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn take_extra(&mut self, key: &HopKey) -> Result<Option<Extra>, Error> {
        let taken = batch::take_or_delete::<Key, ExtraPod>(self.extra.fd().as_fd(), &Key(*key))
            .map_err(|source| Error::Map { map: EXTRA, source })?;
        Ok(taken.map(|extra| extra.0))
    }
}
