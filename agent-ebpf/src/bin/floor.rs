//! What `cargo xtask bench` holds the hooks against: an empty program, and the least that any flow
//! counter must do. An object of its own, which the agent does not carry.

#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "entry points are documented here, maps where they are made"
)]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "by value a key would be copied"
)]

use aya_ebpf::{
    bindings::{BPF_ANY, TC_ACT_UNSPEC},
    macros::{classifier, map},
    maps::{Array, HashMap, ProgramArray},
    programs::TcContext,
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};
use nodescope_ebpf::{Counter, HopKey, mapped};

/// As large as the agent's table at its defaults, and preallocated as it is.
#[map]
pub static FLOWS: HashMap<HopKey, Counter> = HashMap::with_max_entries(262_144, 0);

/// The program that [`vary`] goes on to.
#[map]
pub static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The number that [`vary`] writes next.
#[map]
pub static NEXT: Array<u32> = Array::with_max_entries(1, 0);

/// What a run costs that does nothing.
#[classifier]
pub fn empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The 5-tuple by direct access, one look-up, two additions; an insertion for a new flow.
#[classifier]
pub fn floor(ctx: TcContext) -> i32 {
    let _ = count(&ctx);
    TC_ACT_UNSPEC
}

/// Makes another flow out of the frame (10.x.y.z as the source, counted up) and goes on to the
/// program under test: each run sees a flow that the one before did not.
#[classifier]
pub fn vary(ctx: TcContext) -> i32 {
    let source = ctx.data() + EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, src_addr);
    if source + 4 <= ctx.data_end()
        && let Some(next) = NEXT.get_ptr_mut(0)
    {
        // SAFETY: within the packet by the check above; the counter is the map's, and one CPU
        // measures at a time.
        unsafe {
            let number = (*next & 0x00ff_ffff) | 0x0a00_0000;
            *next += 1;
            (source as *mut u32).write_unaligned(number.to_be());
        }
    }
    // SAFETY: the array holds programs of this type only, and nothing here needs dropping.
    unsafe { TARGET.tail_call(&ctx, 0) };
    TC_ACT_UNSPEC
}

#[inline(always)]
fn count(ctx: &TcContext) -> Option<()> {
    let ip: Ipv4Hdr = read(ctx, EthHdr::LEN)?;
    if ip.vihl != 0x45 {
        return None;
    }
    let ports: [u16; 2] = read(ctx, EthHdr::LEN + Ipv4Hdr::LEN)?;
    let key = HopKey {
        a: mapped(ip.src_addr),
        b: mapped(ip.dst_addr),
        a_port: ports[0],
        b_port: ports[1],
        protocol: ip.proto,
        ..HopKey::default()
    };
    let length = u64::from(ctx.len());
    match FLOWS.get_ptr_mut(&key) {
        // SAFETY: an element of the map stays valid for this run; that two CPUs may lose one
        // another's additions is what the least costs.
        Some(counter) => unsafe {
            (*counter).packets += 1;
            (*counter).bytes += length;
        },
        None => {
            let counter = Counter {
                packets: 1,
                bytes: length,
            };
            FLOWS.insert(&key, counter, u64::from(BPF_ANY)).ok()?;
        }
    }
    Some(())
}

#[inline(always)]
fn read<T: Copy>(ctx: &TcContext, at: usize) -> Option<T> {
    let start = ctx.data() + at;
    (start + size_of::<T>() <= ctx.data_end())
        // SAFETY: the bounds check is the one that the verifier asks for.
        .then(|| unsafe { (start as *const T).read_unaligned() })
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
