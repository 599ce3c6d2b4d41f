//! The contract's types under names that aya may copy as bytes.

use aya::Pod;
use nodescope_ebpf::drop::{DropKey, DropOffsets, DropRecord};
use nodescope_ebpf::extra::{Extra, SocketOffsets};
use nodescope_ebpf::slots::OffloadSlot;
use nodescope_ebpf::{
    Counter, HopKey, HopRecord, NatRecord, NatTuple, Offsets, ProbeKey, UnattributedKey,
};

macro_rules! pod {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name(pub $inner);

        // SAFETY: repr(transparent) over a repr(C) struct of integers whose size the contract
        // asserts to be the sum of its fields: no padding, no pointers, any bits are a value.
        unsafe impl Pod for $name {}
    )*};
}

pod! {
    /// Key of `HOPS` and `NAT`.
    Key(HopKey);
    /// Value of `HOPS`.
    Record(HopRecord);
    /// Value of `NAT`.
    NatValue(NatRecord);
    /// Value of `EXTRA`.
    ExtraPod(Extra);
    /// Key of `RETRANSMITS`.
    TuplePod(NatTuple);
    /// Key of `UNATTRIBUTED`.
    UnattributedPod(UnattributedKey);
    /// Value of `UNATTRIBUTED` and `UNPLACED`.
    CounterPod(Counter);
    /// Value of `OFFLOAD`.
    OffloadPod(OffloadSlot);
    /// Key of `PROBE_PORTS`.
    ProbePod(ProbeKey);
    /// The read-only global `OFFSETS`.
    OffsetsPod(Offsets);
    /// The read-only global `SOCKET`.
    SocketPod(SocketOffsets);
    /// Key of `DROPS`.
    DropKeyPod(DropKey);
    /// Value of `DROPS`.
    DropPod(DropRecord);
    /// The read-only global `DROP_OFFSETS`.
    DropOffsetsPod(DropOffsets);
}
