//! The turns of a TCP connection: handshake, ends, a port used anew, a window closed.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use nodescope_ebpf::{EventKind, HopKey, HopRecord, NatState, packet::tcp_flag};

use crate::{
    careful::either,
    events::tell,
    extras::{self, Note},
    payload,
};

/// The packets of a TCP connection that change its state.
///
/// # Safety
///
/// `record` points into the map.
#[inline(never)]
pub unsafe fn turn(key: &HopKey, record: *mut HopRecord, forward: u32, flags: u32) {
    let forward = forward != 0;
    if flags & u32::from(tcp_flag::ZERO_WINDOW) != 0 {
        // SAFETY: the caller's promise.
        unsafe { extras::note(key, record, Note::ZeroWindow as u32, u32::from(forward)) };
    }
    let flags = flags as u8;
    // SAFETY: the caller's promise.
    unsafe {
        if flags & tcp_flag::SYN != 0 {
            let now = bpf_ktime_get_ns();
            if flags & tcp_flag::ACK != 0 {
                if (*record).answer_ns == 0 {
                    (*record).answer_ns = now;
                }
            } else {
                let ended =
                    (*record).ab_fin | (*record).ba_fin | (*record).ab_rst | (*record).ba_rst;
                if ended != 0 {
                    // The port is used anew: the translation may be another one.
                    (*record).ab_fin = 0;
                    (*record).ba_fin = 0;
                    (*record).ab_rst = 0;
                    (*record).ba_rst = 0;
                    (*record).ab_flags = 0;
                    (*record).ba_flags = 0;
                    (*record).answer_ns = 0;
                    (*record).request_ns = 0;
                    (*record).nat = NatState::Unknown as u8;
                    (*record).nat_tries = 0;
                    (*record).payload = payload::wanted(key);
                    (*record).opener = u8::from(!forward);
                    (*record).incarnation = (*record).incarnation.wrapping_add(1);
                    if (*record).extra != 0 {
                        extras::note(key, record, Note::Anew as u32, 0);
                    }
                    tell(key, EventKind::Open);
                }
                // One that is sent again is what an answer answers.
                if (*record).answer_ns == 0 {
                    (*record).request_ns = now;
                }
            }
        }
        let ending = flags & (tcp_flag::FIN | tcp_flag::RST) != 0;
        if ending {
            let fin = either!(
                forward,
                &raw mut (*record).ab_fin,
                &raw mut (*record).ba_fin
            );
            let rst = either!(
                forward,
                &raw mut (*record).ab_rst,
                &raw mut (*record).ba_rst
            );
            let other = *either!(
                forward,
                &raw const (*record).ba_rst,
                &raw const (*record).ab_rst
            );
            let known = *fin | *rst;
            if flags & tcp_flag::FIN != 0 {
                *fin = 1;
            }
            if flags & tcp_flag::RST != 0 && *rst == 0 {
                *rst = if other == 0 { 1 } else { 2 };
            }
            if known == 0 {
                tell(key, EventKind::Ending);
            }
        }
        let seen = either!(
            forward,
            &raw mut (*record).ab_flags,
            &raw mut (*record).ba_flags
        );
        *seen |= flags;
    }
}
