//! Packets that died: what the kernel side counts of them, shared by both sides.

use crate::Address;

/// One kind of loss: the key of the `DROPS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DropKey {
    /// Source address of the packet as it was when it died, after or before translation.
    pub source: Address,
    /// Destination address, the same.
    pub destination: Address,
    /// Source port in host order, or what [`crate::Kind`] says.
    pub source_port: u16,
    /// Destination port in host order, or what [`crate::Kind`] says.
    pub destination_port: u16,
    /// Number of the kernel's `enum skb_drop_reason`; 0 on kernels that give none.
    pub reason: u32,
    /// Inode number of the network namespace in which it happened.
    pub netns: u32,
    /// Interface in that namespace; 0 where the packet had none.
    pub ifindex: u32,
    /// In another namespace than the agent's: the host side of the pod.
    pub host_ifindex: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Meaning of the ports, a [`crate::Kind`].
    pub kind: u8,
    /// 0: received by the interface, 1: on its way out.
    pub egress: u8,
    /// Always 0.
    pub reserved: u8,
}

const _: () = assert!(size_of::<DropKey>() == 56 && align_of::<DropKey>() == 4);

/// How much was lost: the value of the `DROPS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropRecord {
    /// Packets on the wire.
    pub packets: u64,
    /// Bytes as an Ethernet interface would have counted them.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the first.
    pub first_ns: u64,
    /// Nanoseconds of the last.
    pub last_ns: u64,
    /// Address of the instruction that gave the packet up, for the function's name.
    pub location: u64,
    /// Name of the interface, zeroes at its end (`IFNAMSIZ`, uapi linux/if.h).
    pub interface: [u8; 16],
}

const _: () = assert!(size_of::<DropRecord>() == 56 && align_of::<DropRecord>() == 8);

/// Freed packets that are no loss of this node, and the index of their counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// The kernel says itself that it was used up, or not dropped yet.
    Consumed = 0,
    /// What a closed socket still had in its queues.
    Teardown = 1,
    /// Not IP, or not built far enough to tell.
    NotIp = 2,
    /// In a namespace that is neither the agent's nor behind an interface of it.
    Elsewhere = 3,
    /// An echo reply for which there is no ping socket: a raw socket, as ping has it for root, was
    /// given a copy before.
    EchoReply = 4,
}

impl Ignored {
    /// How many there are.
    pub const COUNT: u32 = 5;

    /// The words in metrics, in the order of their numbers.
    pub const NAMES: [&'static str; 5] =
        ["consumed", "teardown", "not_ip", "elsewhere", "echo_reply"];
}

/// Counters by reason for losses that found `DROPS` full; the last is for all reasons that have
/// no counter of their own.
pub const UNPLACED_REASONS: u32 = 256;

/// No reason has this number.
pub const NO_REASON: u32 = u32::MAX;

/// Where the running kernel keeps what the drop program reads: offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropOffsets {
    /// `sk_buff.dev`.
    pub skb_dev: u32,
    /// `sk_buff._skb_refdst`.
    pub skb_dst: u32,
    /// `sk_buff.sk`.
    pub skb_sk: u32,
    /// `sk_buff.len`.
    pub skb_len: u32,
    /// `sk_buff.data_len`.
    pub skb_data_len: u32,
    /// `sk_buff.data`.
    pub skb_data: u32,
    /// `sk_buff.head`.
    pub skb_head: u32,
    /// `sk_buff.end`.
    pub skb_end: u32,
    /// `sk_buff.network_header`.
    pub skb_network: u32,
    /// `sk_buff.protocol`.
    pub skb_protocol: u32,
    /// `sk_buff.skb_iif`.
    pub skb_iif: u32,
    /// `skb_shared_info.gso_segs`.
    pub gso_segs: u32,
    /// `net_device.ifindex`.
    pub dev_ifindex: u32,
    /// `net_device.name`.
    pub dev_name: u32,
    /// `net_device.nd_net`.
    pub dev_net: u32,
    /// `net_device.rtnl_link_ops`.
    pub dev_link_ops: u32,
    /// What `netdev_priv` gives; for a veth it begins with the peer's address
    /// (drivers/net/veth.c, `struct veth_priv`).
    pub dev_private: u32,
    /// `rtnl_link_ops.kind`.
    pub ops_kind: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `sock.__sk_common.skc_net`.
    pub sock_net: u32,
    /// `sock.__sk_common.skc_state`.
    pub sock_state: u32,
    /// `sock.__sk_common.skc_flags`.
    pub sock_flags: u32,
    /// `dst_entry.dev`.
    pub dst_dev: u32,
    /// Inode number of the agent's own network namespace.
    pub netns: u32,
    /// `SKB_CONSUMED`, or [`NO_REASON`].
    pub consumed: u32,
    /// `SKB_NOT_DROPPED_YET`, or [`NO_REASON`].
    pub not_dropped: u32,
    /// `SKB_DROP_REASON_NOT_SPECIFIED`, or 0 where there are no reasons.
    pub unspecified: u32,
    /// `SKB_DROP_REASON_QUEUE_PURGE`, or [`NO_REASON`].
    pub purged: u32,
    /// `SKB_DROP_REASON_NO_SOCKET`, or [`NO_REASON`].
    pub no_socket: u32,
}
