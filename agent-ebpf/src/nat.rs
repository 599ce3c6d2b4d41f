//! A packet's translation, from the conntrack entry that hangs on it.
//!
//! `skb->_nfct` is a `struct nf_conn *` whose low three bits are the packet's
//! `enum ip_conntrack_info` (include/linux/skbuff.h, include/linux/netfilter/nf_conntrack_common.h).
//! On egress the packet has been through POSTROUTING, so the entry is confirmed and both its
//! tuples are final, a source port chosen because of a collision included.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY},
    helpers::generated::bpf_probe_read_kernel,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use nodescope_ebpf::{Address, EventKind, HopKey, HopRecord, Kind, NatState, NatTuple, mapped};

use crate::{
    CAREFUL,
    events::tell,
    maps::{NAT, OFFSETS, SCRATCH, scratch_of},
};

/// Low bits of `_nfct` (`NFCT_INFOMASK`).
const INFO_MASK: u64 = 7;
/// `IP_CT_IS_REPLY`: this and above up to 5 are packets of the answer.
const IS_REPLY: u64 = 3;
/// After so many packets without an entry the conversation counts as untracked.
const TRIES: u8 = 8;
/// Address families (`AF_INET`), as in `nf_conntrack_tuple.src.l3num`.
const AF_INET: u16 = 2;
/// ICMP and ICMPv6.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// `struct nf_conntrack_tuple` (include/net/netfilter/nf_conntrack_tuple.h): 40 bytes, of which
/// the last is the direction.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelTuple {
    source: Address,
    /// Port in wire order; for ICMP the echo identifier.
    source_port: u16,
    family: u16,
    destination: Address,
    /// Port in wire order; for ICMP type and code.
    destination_port: u16,
    protocol: u8,
    direction: u8,
}

/// `struct nf_conntrack_tuple_hash`: a list node, then the tuple.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelTupleHash {
    node: [u64; 2],
    tuple: KernelTuple,
}

const _: () = assert!(size_of::<KernelTuple>() == 40 && size_of::<KernelTupleHash>() == 56);

/// Reads from the kernel's memory; false on a fault.
///
/// # Safety
///
/// `to` is valid for writing a `T`, plain data for which every bit pattern is a value.
#[inline(always)]
unsafe fn read<T: Copy>(to: *mut T, from: u64) -> bool {
    // SAFETY: the helper writes all of the value, zeroes on a fault.
    unsafe { bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, from as *const _) == 0 }
}

/// Looks at the packet's conntrack entry and says in the record what it says.
///
/// # Safety
///
/// `record` points into the map.
#[inline(never)]
pub unsafe fn resolve(ctx: &TcContext, key: &HopKey, record: *mut HopRecord, forward: u32) {
    if CAREFUL || OFFSETS.load().enabled == 0 || key.kind == Kind::IcmpMessage as u8 {
        return;
    }
    if scratch_of(key).is_none() {
        return;
    }
    let state = read_entry(ctx.skb.skb, forward);
    // SAFETY: the caller's promise.
    unsafe {
        if state != NatState::Unknown as u32 {
            (*record).nat = state as u8;
            tell(key, EventKind::Nat);
            return;
        }
        (*record).nat_tries += 1;
        if (*record).nat_tries >= TRIES {
            (*record).nat = NatState::Untracked as u8;
        }
    }
}

/// What the entry says, as a number of [`NatState`]: `Unknown` where there is none. The
/// conversation is in [`SCRATCH`], for the verifier takes this as a global function
/// ([`crate::rare`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_entry(skb: *mut __sk_buff, forward: u32) -> u32 {
    entry(&TcContext::new(skb), forward != 0) as u32
}

#[inline(always)]
fn entry(ctx: &TcContext, forward: bool) -> NatState {
    let offsets = OFFSETS.load();
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return NatState::Unknown;
    };
    let mut nfct = 0u64;
    // SAFETY: the context is the address of the sk_buff itself, every read of the kernel's
    // memory goes through the checking helper, and the scratch is this CPU's.
    unsafe {
        if !read(&raw mut nfct, ctx.skb.skb as u64 + u64::from(offsets.nfct)) {
            return NatState::Unknown;
        }
        let entry = nfct & !INFO_MASK;
        if entry == 0
            || !read(
                &raw mut (*scratch).tuples,
                entry + u64::from(offsets.tuplehash),
            )
        {
            return NatState::Unknown;
        }
        let key = &(*scratch).key;
        let original = &(*scratch).tuples[0].tuple;
        let reply = &(*scratch).tuples[1].tuple;
        if original.protocol != key.protocol || reply.protocol != key.protocol {
            return NatState::Unknown;
        }
        let record = &raw mut (*scratch).record;
        fill(&raw mut (*record).original, original);
        fill(&raw mut (*record).reply, reply);
        if mirrored(&(*record).original, &(*record).reply) {
            let from_a = forward == ((nfct & INFO_MASK) < IS_REPLY);
            return if from_a {
                NatState::PlainFromA
            } else {
                NatState::PlainFromB
            };
        }
        (*record).protocol = key.protocol;
        (*record).reserved = 0;
        (*record).zone = 0;
        (*record).status = 0;
        read(&raw mut (*record).status, entry + u64::from(offsets.status));
        if offsets.zone != 0 {
            read(&raw mut (*record).zone, entry + u64::from(offsets.zone));
        }
        match NAT.insert(key, &*record, u64::from(BPF_ANY)) {
            Ok(()) => NatState::Translated,
            Err(error) => {
                debug!(ctx, "no room for a translation: {}", error);
                NatState::Lost
            }
        }
    }
}

/// Whether the answer's tuple is the original's, turned round: nothing is translated.
#[inline(always)]
fn mirrored(original: &NatTuple, reply: &NatTuple) -> bool {
    original.source == reply.destination
        && original.destination == reply.source
        && original.source_port == reply.destination_port
        && original.destination_port == reply.source_port
}

/// Writes a tuple in the form of the contract: IPv4 mapped, ports in host order, echo
/// identifiers in both.
///
/// # Safety
///
/// `to` is valid for writing.
#[inline(always)]
unsafe fn fill(to: *mut NatTuple, kernel: &KernelTuple) {
    let v4 = kernel.family == AF_INET;
    let source_port = u16::from_be(kernel.source_port);
    let icmp = kernel.protocol == ICMP || kernel.protocol == ICMPV6;
    // SAFETY: the caller's promise.
    unsafe {
        (*to).source = if v4 {
            mapped(kernel.source[0].to_ne_bytes())
        } else {
            kernel.source
        };
        (*to).destination = if v4 {
            mapped(kernel.destination[0].to_ne_bytes())
        } else {
            kernel.destination
        };
        (*to).source_port = source_port;
        (*to).destination_port = if icmp {
            source_port
        } else {
            u16::from_be(kernel.destination_port)
        };
    }
}
