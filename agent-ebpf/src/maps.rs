//! The maps, by the names under which the agent finds them.

use crate::{careful::copy, nat::KernelTupleHash};
use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use nodescope_ebpf::{
    Counter, DNS_HEAD, EventKind, HopKey, HopRecord, NatRecord, NatTuple, Offsets, ProbeKey,
    UnattributedKey,
    drop::{DropKey, DropOffsets, DropRecord, Ignored, UNPLACED_REASONS},
    extra::{Extra, FragmentKey, FragmentPorts, SocketOffsets},
    packet::Whole,
    slots::{self, OffloadSlot},
};

/// Conversations at interfaces. The agent sets the size before loading. Memory is taken for
/// records that there are: the size is that of the largest flood, of which most nodes see none.
#[map]
pub static HOPS: HashMap<HopKey, HopRecord> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Conntrack tuples of those that are translated, under the same key.
#[map]
pub static NAT: HashMap<HopKey, NatRecord> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// What few conversations have, under the same key. The agent sets the size before loading.
#[map]
pub static EXTRA: HashMap<HopKey, Extra> = HashMap::with_max_entries(32_768, 0);

/// Ports of datagrams whose first fragment came by. One that is forgotten costs its later
/// fragments their place, and those are counted: so here an LRU will do.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(8192, 0);

/// Segments that sockets of this node sent again, by the socket's own tuple.
#[map]
pub static RETRANSMITS: HashMap<NatTuple, u64> = HashMap::with_max_entries(16_384, 0);

/// Packets in no record, by hook and reason.
#[map]
pub static UNATTRIBUTED: PerCpuHashMap<UnattributedKey, Counter> =
    PerCpuHashMap::with_max_entries(16_384, 0);

/// The same by reason alone, for the case that `UNATTRIBUTED` has no room for another hook.
#[map]
pub static UNPLACED: PerCpuArray<Counter> = PerCpuArray::with_max_entries(16, 0);

/// Ports of bridges: interface index of the port, of the bridge.
#[map]
pub static PORTS: HashMap<u32, u32> = HashMap::with_max_entries(4096, 0);

/// Whether some interface with this slot is a port of a bridge ([`slots::of_port`]).
#[map]
pub static PORT_SLOTS: Array<u32> = Array::with_max_entries(slots::PORTS, 0);

/// Segments that records count and interfaces do not, by hook ([`slots::of`]).
#[map]
pub static OFFLOAD: PerCpuArray<OffloadSlot> = PerCpuArray::with_max_entries(slots::OFFLOAD, 0);

/// Conversations that began, for the agent to look at now rather than at the next drain.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Keys of records that changed, once a [round](nodescope_ebpf::rounds): 37,000 fit. Nobody is woken.
#[map]
pub static CHANGED: RingBuf = RingBuf::with_byte_size(1 << 21, 0);

/// The last round in which [`CHANGED`] was full: then the agent reads all records.
#[map]
pub static MISSED: Array<u32> = Array::with_max_entries(1, 0);

/// The round, as the agent says. The only one of its section, which so is a map of one number, that
/// programs read without a look-up.
#[unsafe(no_mangle)]
static mut ROUND: u32 = 0;

/// The round now; 0 before the agent begins.
#[inline(always)]
pub fn round() -> u32 {
    // SAFETY: an aligned word that the agent writes as a whole.
    unsafe { (&raw const ROUND).read_volatile() }
}

/// Ends whose payload heads are wanted, and why ([`nodescope_ebpf::ProbeEnd`]).
#[map]
pub static PROBE_PORTS: HashMap<ProbeKey, u32> = HashMap::with_max_entries(8192, 0);

/// Heads of payload ([`nodescope_ebpf::PayloadEvent`]).
#[map]
pub static PAYLOAD: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Events that found the ring full, by kind.
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(EventKind::COUNT, 0);

/// Room for a conntrack entry while it is read, and for a new record: more than the stack has.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's [`SCRATCH`], with the conversation in it.
#[inline(always)]
pub fn scratch_of(key: &HopKey) -> Option<*mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's element, which nothing else uses while this program runs.
    unsafe { copy(&raw mut (*scratch).key, key) };
    Some(scratch)
}

/// Room for a packet that is not plain ([`crate::rare`]), and for a tunnel's inner packet.
#[map]
pub static RARE: PerCpuArray<Rare> = PerCpuArray::with_max_entries(2, 0);

/// See [`RARE`].
#[repr(C)]
pub struct Rare {
    /// The packet.
    pub whole: Whole,
    /// Its conversation.
    pub key: HopKey,
    /// Its datagram.
    pub fragment: FragmentKey,
    /// What is known of that.
    pub ports: FragmentPorts,
}

/// Zeroes, to make an entry of [`EXTRA`] from: more than the stack has. Nothing writes here.
#[map]
pub static BLANK: PerCpuArray<Extra> = PerCpuArray::with_max_entries(1, 0);

/// See [`SCRATCH`].
#[repr(C)]
pub struct Scratch {
    /// The conversation, for the functions that the verifier looks at by themselves: they take no
    /// pointers but the context.
    pub key: HopKey,
    /// `nf_conn.tuplehash`.
    pub tuples: [KernelTupleHash; 2],
    /// What becomes of it.
    pub record: NatRecord,
    /// A record to be.
    pub fresh: HopRecord,
}

/// Where the running kernel keeps what [`crate::nat`] reads.
#[unsafe(no_mangle)]
pub static OFFSETS: Global<Offsets> = Global::new(Offsets {
    nfct: 0,
    tuplehash: 0,
    status: 0,
    zone: 0,
    enabled: 0,
});

/// Where the running kernel keeps what [`crate::retransmit`] reads.
#[unsafe(no_mangle)]
pub static SOCKET: Global<SocketOffsets> = Global::new(SocketOffsets {
    family: 0,
    destination: 0,
    source: 0,
    destination_port: 0,
    source_port: 0,
    destination6: 0,
    source6: 0,
    segments: 0,
});

/// Bytes of a DNS answer that [`crate::payload`] sends, [`HEAD`](nodescope_ebpf::HEAD) at most.
#[unsafe(no_mangle)]
pub static DNS_BYTES: Global<u32> = Global::new(DNS_HEAD as u32);

/// Packets that died, by tuple, place and reason.
#[map]
pub static DROPS: HashMap<DropKey, DropRecord> = HashMap::with_max_entries(8192, 0);

/// The same by reason alone, when `DROPS` is full.
#[map]
pub static DROPS_UNPLACED: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries(UNPLACED_REASONS, 0);

/// Freed packets that are no loss, by [`Ignored`].
#[map]
pub static DROPS_IGNORED: PerCpuArray<u64> = PerCpuArray::with_max_entries(Ignored::COUNT, 0);

/// Host side of the pod whose namespace has this inode number.
#[map]
pub static DROP_NETNS: LruHashMap<u32, u32> = LruHashMap::with_max_entries(1024, 0);

/// Room for a packet that died while it is read, by depth: kernels before 5.12 let a program of a
/// tracepoint interrupt itself.
#[map]
pub static DROP_ROOM: PerCpuArray<DropRoom> = PerCpuArray::with_max_entries(DROP_DEPTHS, 0);

/// A process, a softirq, an interrupt: more cannot be at work on one CPU.
pub const DROP_DEPTHS: u32 = 3;

/// See [`DROP_ROOM`].
#[repr(C)]
pub struct DropRoom {
    /// The packet.
    pub whole: Whole,
    /// Which loss it is.
    pub key: DropKey,
    /// A record of it to be.
    pub fresh: DropRecord,
    /// How many are at work; counts in the first element only.
    pub depth: u32,
}

/// Wakes the agent when a new kind of loss began; what it is, `DROPS` tells.
#[map]
pub static DROP_EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Where the running kernel keeps what [`crate::drops`] reads.
#[unsafe(no_mangle)]
pub static DROP_OFFSETS: Global<DropOffsets> = Global::new(DropOffsets {
    skb_dev: 0,
    skb_dst: 0,
    skb_sk: 0,
    skb_len: 0,
    skb_data_len: 0,
    skb_data: 0,
    skb_head: 0,
    skb_end: 0,
    skb_network: 0,
    skb_protocol: 0,
    skb_iif: 0,
    gso_segs: 0,
    dev_ifindex: 0,
    dev_name: 0,
    dev_net: 0,
    dev_link_ops: 0,
    dev_private: 0,
    ops_kind: 0,
    net_inum: 0,
    sock_net: 0,
    sock_state: 0,
    sock_flags: 0,
    dst_dev: 0,
    netns: 0,
    consumed: 0,
    not_dropped: 0,
    unspecified: 0,
    purged: 0,
    no_socket: 0,
});
