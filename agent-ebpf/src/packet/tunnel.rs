//! Packets in packets: VXLAN (RFC 7348) and Geneve (RFC 8926) in UDP.

use super::{Frame, Start};
use crate::extra::Encapsulation;

/// The assigned port of VXLAN, and the one that Linux used before there was one and still takes
/// when it is told none.
const VXLAN: [u16; 2] = [4789, 8472];
/// The assigned port of Geneve.
const GENEVE: u16 = 6081;
/// "Transparent Ethernet bridging": an Ethernet header follows.
const BRIDGING: u16 = 0x6558;
/// UDP's header, then eight bytes of the tunnel's.
const HEADERS: usize = 16;

/// What a tunnel's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Which.
    pub kind: Encapsulation,
    /// Network identifier, 24 bits.
    pub network: u32,
    /// Where the inner packet starts.
    pub at: usize,
    /// With what.
    pub start: Start,
}

/// Whether UDP to this port is a tunnel's.
#[inline(always)]
pub fn is_tunnel(port: u16) -> bool {
    port == VXLAN[0] || port == VXLAN[1] || port == GENEVE
}

/// Reads a tunnel's header behind the UDP header at `udp`, by its destination port. `None` when
/// it is cut, or not what the port says.
#[inline(always)]
pub fn tunnel<F: Frame>(frame: &F, udp: usize, port: u16) -> Option<Tunnel> {
    let header: [u8; HEADERS] = frame.read(udp)?;
    let network = u32::from_be_bytes([0, header[12], header[13], header[14]]);
    if port != GENEVE {
        // The identifier's flag must be set.
        return (header[8] & 0x08 != 0).then_some(Tunnel {
            kind: Encapsulation::Vxlan,
            network,
            at: udp + HEADERS,
            start: Start::Ethernet,
        });
    }
    // Version 0, and options in words.
    let options = ((header[8] & 0x3f) as usize) << 2;
    let kind = u16::from_be_bytes([header[10], header[11]]);
    (header[8] >> 6 == 0).then_some(Tunnel {
        kind: Encapsulation::Geneve,
        network,
        at: udp + HEADERS + options,
        start: if kind == BRIDGING {
            Start::Ethernet
        } else {
            Start::Network(kind)
        },
    })
}
