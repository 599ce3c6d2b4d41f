//! tc programs that count conversations at an interface. They only look: every one returns
//! `TC_ACT_UNSPEC`, which lets the packet go on to whoever comes next, whatever happens inside.

#![no_std]
#![no_main]
// Inline assembly for this target, for the one instruction that core does not offer on it.
#![feature(asm_experimental_arch)]
#![allow(
    missing_docs,
    reason = "entry points are documented here, maps where they are made"
)]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "by value a key would be copied, on a stack of 512 bytes"
)]

mod careful;
mod drops;
mod events;
mod extras;
mod frame;
mod hops;
mod maps;
mod nat;
mod offload;
mod payload;
mod rare;
mod retransmit;
mod take;
mod tcp;

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    macros::{classifier, raw_tracepoint},
    programs::{RawTracePointContext, TcContext},
};

/// Whether these are the programs for an agent without CAP_PERFMON, which read every packet by
/// helpers and no translation.
const CAREFUL: bool = cfg!(feature = "careful");

/// Packets that a pod sends, or that any port of a bridge receives.
#[classifier]
pub fn port_ingress(ctx: TcContext) -> i32 {
    hops::account::<false, false>(&ctx);
    TC_ACT_UNSPEC
}

/// Packets that a bridge or an uplink receives: those for other hosts are not the node's.
#[classifier]
pub fn host_ingress(ctx: TcContext) -> i32 {
    hops::account::<false, true>(&ctx);
    TC_ACT_UNSPEC
}

/// Packets that an interface sends.
#[classifier]
pub fn port_egress(ctx: TcContext) -> i32 {
    hops::account::<true, false>(&ctx);
    TC_ACT_UNSPEC
}

/// Packets that a bridge or an uplink sends: not those that only pass its queue on their way
/// from one port to another.
#[classifier]
pub fn host_egress(ctx: TcContext) -> i32 {
    hops::account::<true, true>(&ctx);
    TC_ACT_UNSPEC
}

/// No hook: the agent runs it by itself ([`take`](mod@take)). 1 when there was a record.
#[classifier]
pub fn take(ctx: TcContext) -> i32 {
    i32::from(take::take(&ctx).is_some())
}

/// A segment that a socket sends again.
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn retransmit_segment(ctx: RawTracePointContext) -> i32 {
    // TP_PROTO(const struct sock *sk, const struct sk_buff *skb, …)
    retransmit::segment(ctx.arg(0), ctx.arg(1));
    0
}

/// A SYN+ACK that is sent again, before there is a socket for the connection.
#[raw_tracepoint(tracepoint = "tcp_retransmit_synack")]
pub fn retransmit_synack(ctx: RawTracePointContext) -> i32 {
    // TP_PROTO(const struct sock *sk, const struct request_sock *req)
    retransmit::synack(ctx.arg(1));
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// bpf_probe_read_kernel and the tracing helpers ask for a GPL-compatible program.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
