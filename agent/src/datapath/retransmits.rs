//! The tracepoints that tell of segments sent again, and their counters.
//!
//! The agent does without them where the kernel refuses: a program of its own needs CAP_PERFMON
//! and the kernel's types, which counting packets does not.

use std::os::fd::AsFd as _;

use aya::maps::MapData;
use aya::programs::RawTracePoint;
use nodescope_ebpf::NatTuple;
use nodescope_ebpf::extra::SocketOffsets;

use super::pods::TuplePod;
use super::{Error, batch, chain};

/// Programs and the tracepoints they hang on.
const PROGRAMS: [(&str, &str); 2] = [
    ("retransmit_segment", "tcp_retransmit_skb"),
    ("retransmit_synack", "tcp_retransmit_synack"),
];
const MAP: &str = "RETRANSMITS";
/// Entries of a batch look-up.
const BATCH: usize = 512;

/// The counters.
pub(super) struct Retransmits {
    map: MapData,
    batches: batch::Batches<TuplePod, u64>,
    /// Why nothing counts, when nothing does.
    off: Option<String>,
}

impl Retransmits {
    /// Loads and attaches the programs of an object that was given these offsets.
    ///
    /// # Errors
    ///
    /// The map is not in the object.
    pub(super) fn start(
        ebpf: &mut aya::Ebpf,
        offsets: &Result<SocketOffsets, String>,
    ) -> Result<Self, Error> {
        let off = match offsets {
            Ok(_) => attach(ebpf).err(),
            Err(error) => Some(error.clone()),
        };
        if let Some(why) = &off {
            tracing::info!("TCP retransmissions are not counted: {why}");
        }
        let map = match ebpf.take_map(MAP) {
            Some(aya::maps::Map::HashMap(data)) => data,
            _ => return Err(Error::Incomplete(MAP)),
        };
        Ok(Self {
            map,
            batches: batch::Batches::new(BATCH),
            off,
        })
    }
}

impl super::Datapath {
    /// Why TCP retransmissions are not counted; `None` when they are.
    pub fn retransmits_off(&self) -> Option<&str> {
        self.retransmits.off.as_deref()
    }

    /// Segments that sockets sent again, by the socket's own tuple, since each was first told of.
    ///
    /// # Errors
    ///
    /// The kernel refuses the look-up.
    pub fn retransmits(&mut self) -> Result<Vec<(NatTuple, u64)>, Error> {
        let mut all = Vec::new();
        let Retransmits { map, batches, off } = &mut self.retransmits;
        if off.is_none() {
            batches
                .for_each(map.fd().as_fd(), |socket, segments| {
                    all.push((socket.0, *segments));
                })
                .map_err(|source| Error::Map { map: MAP, source })?;
        }
        Ok(all)
    }

    /// Takes a counter out and gives its last value.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn take_retransmits(&mut self, socket: &NatTuple) -> Result<Option<u64>, Error> {
        batch::take_or_delete(self.retransmits.map.fd().as_fd(), &TuplePod(*socket))
            .map_err(|source| Error::Map { map: MAP, source })
    }
}

fn attach(ebpf: &mut aya::Ebpf) -> Result<(), String> {
    for (name, tracepoint) in PROGRAMS {
        let program: &mut RawTracePoint = ebpf
            .program_mut(name)
            .ok_or_else(|| Error::Incomplete(name).to_string())?
            .try_into()
            .map_err(|error| chain(&error))?;
        program.load().map_err(|error| chain(&error))?;
        program
            .attach(tracepoint)
            .map_err(|error| format!("tracepoint {tracepoint}: {}", chain(&error)))?;
    }
    Ok(())
}
