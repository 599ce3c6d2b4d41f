//! Small tables that are found by a few bits of an interface's index instead of a hash.

/// Slots of the `OFFLOAD` map; a power of two.
pub const OFFLOAD: u32 = 2048;

/// Slots of the `PORT_SLOTS` map; a power of two.
pub const PORTS: u32 = 4096;

/// Segments beyond the first of a hook's offloaded packets, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadSlot {
    /// Whose they are, see [`owner`]; 0 for nobody's yet.
    pub owner: u64,
    /// How many.
    pub segments: u64,
}

const _: () = assert!(size_of::<OffloadSlot>() == 16 && align_of::<OffloadSlot>() == 8);

/// A hook as a number that is not 0: interface indices begin at 1.
#[inline(always)]
pub const fn owner(ifindex: u32, egress: bool) -> u64 {
    (ifindex as u64) << 1 | egress as u64
}

/// The slot of an owner. Two hooks whose interfaces are 1024 apart share one.
#[inline(always)]
pub const fn of(owner: u64) -> u32 {
    owner as u32 & (OFFLOAD - 1)
}

/// The slot of a bridge's port: 0 in it says that no interface that has it is one.
#[inline(always)]
pub const fn of_port(ifindex: u32) -> u32 {
    ifindex & (PORTS - 1)
}
