//! What few conversations have: tags, a tunnel's inner packet, ICMP errors, fragments, zero
//! windows. It is kept in maps of its own, so that the record of all others stays small.

use crate::{Address, Counter, NatTuple};

/// Set in a VLAN tag that is there; the low 12 bits are the VLAN's identifier.
pub const TAG: u16 = 0x1000;

/// The value of the `EXTRA` map, under the key of `HOPS`. Of two directions the first is from
/// the key's `a`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// ICMP errors about it, which the record counts too, by the direction that they went in.
    pub errors: [Counter; 2],
    /// Later fragments.
    pub fragments: [u64; 2],
    /// TCP segments other than resets with a window of 0.
    pub zero_windows: [u64; 2],
    /// The inner tuple of a tunnel's first packet, as it was sent.
    pub inner: NatTuple,
    /// Network identifier of the tunnel.
    pub network: u32,
    /// Who sent the newest ICMP error.
    pub error_from: Address,
    /// VLAN tags of the first packet, the outer first: see [`TAG`].
    pub tags: [u16; 2],
    /// IP protocol of `inner`; counts when `encapsulation` says that there is one and the inner
    /// addresses are not zero.
    pub inner_protocol: u8,
    /// An [`Encapsulation`].
    pub encapsulation: u8,
    /// Type of the newest ICMP error.
    pub error_type: u8,
    /// Its code.
    pub error_code: u8,
}

const _: () = assert!(size_of::<Extra>() == 128 && align_of::<Extra>() == 8);

/// Packets that carry packets.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// RFC 7348.
    Vxlan = 1,
    /// RFC 8926.
    Geneve = 2,
}

impl Encapsulation {
    /// Reads the byte of an [`Extra`].
    pub const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Vxlan),
            2 => Some(Self::Geneve),
            _ => None,
        }
    }
}

/// Key of the `FRAGMENTS` map: a datagram at a hook.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification: 16 bits for IPv4, 32 for IPv6.
    pub datagram: u32,
    /// Interface index: translation may give the datagram other ports at another one.
    pub ifindex: u32,
    /// IPv4: the protocol, which is part of a datagram's identity (RFC 791); IPv6: 44.
    pub protocol: u8,
    /// 0 ingress, 1 egress.
    pub egress: u8,
    /// Always 0.
    pub reserved: u16,
}

const _: () = assert!(size_of::<FragmentKey>() == 44 && align_of::<FragmentKey>() == 4);

/// What its first fragment said: the value of the `FRAGMENTS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Source port in host order, or what [`crate::Kind`] says.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// IP protocol behind all headers.
    pub protocol: u8,
    /// A [`crate::Kind`].
    pub kind: u8,
    /// Always 0.
    pub reserved: u16,
}

const _: () = assert!(size_of::<FragmentPorts>() == 8 && align_of::<FragmentPorts>() == 2);

/// Offsets of the running kernel's structures that a retransmission is read from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `sock_common.skc_family`.
    pub family: u32,
    /// `sock_common.skc_daddr`.
    pub destination: u32,
    /// `sock_common.skc_rcv_saddr`.
    pub source: u32,
    /// `sock_common.skc_dport`, in wire order.
    pub destination_port: u32,
    /// `sock_common.skc_num`, in host order.
    pub source_port: u32,
    /// `sock_common.skc_v6_daddr`; 0 where the kernel has no IPv6.
    pub destination6: u32,
    /// `sock_common.skc_v6_rcv_saddr`.
    pub source6: u32,
    /// `tcp_skb_cb.tcp_gso_segs` in an `sk_buff`.
    pub segments: u32,
}
