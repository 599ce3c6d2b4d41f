//! What the drop program needs of the kernel's types, and the names of the reasons.

use std::collections::BTreeMap;

use bytes::Buf;
use nodescope_ebpf::drop::{DropOffsets, NO_REASON};

use super::{Btf, Error, TYPE_SIZE, kind, kind_of, vlen};

/// The layout of the tracepoint's arguments: `typedef void (*btf_trace_kfree_skb)(…)`
/// (include/trace/bpf_probe.h).
const TRACEPOINT: &str = "btf_trace_kfree_skb";
/// The enumeration of reasons, from 5.17 on (include/net/dropreason-core.h).
const REASONS: &str = "skb_drop_reason";
/// The driver's data follows the device at a multiple of this (`NETDEV_ALIGN`).
const DEVICE_ALIGNMENT: u32 = 32;

/// What is known of this kernel's drops.
#[derive(Clone, Debug, Default)]
pub struct DropTypes {
    /// For the kernel side; `netns` is the caller's to fill.
    pub offsets: DropOffsets,
    /// Names by number, without their common prefix; empty where the kernel gives no reason.
    pub reasons: BTreeMap<u32, String>,
}

impl Btf {
    /// Layout and reasons.
    ///
    /// # Errors
    ///
    /// The tracepoint is not what it was in all kernels so far, or a structure is not there.
    pub fn drops(&self) -> Result<DropTypes, Error> {
        let reasons = if self.has_reason()? {
            self.reasons()
        } else {
            BTreeMap::new()
        };
        let number = |name: &str| {
            let found = reasons.iter().find(|(_, known)| *known == name);
            found.map_or(NO_REASON, |(number, _)| *number)
        };
        let common =
            |member| Ok(self.offset("sock", "__sk_common")? + self.offset("sock_common", member)?);
        let offsets = DropOffsets {
            skb_dev: self.offset("sk_buff", "dev")?,
            skb_dst: self.offset("sk_buff", "_skb_refdst")?,
            skb_sk: self.offset("sk_buff", "sk")?,
            skb_len: self.offset("sk_buff", "len")?,
            skb_data_len: self.offset("sk_buff", "data_len")?,
            skb_data: self.offset("sk_buff", "data")?,
            skb_head: self.offset("sk_buff", "head")?,
            skb_end: self.offset("sk_buff", "end")?,
            skb_network: self.offset("sk_buff", "network_header")?,
            skb_protocol: self.offset("sk_buff", "protocol")?,
            skb_iif: self.offset("sk_buff", "skb_iif")?,
            gso_segs: self.offset("skb_shared_info", "gso_segs")?,
            dev_ifindex: self.offset("net_device", "ifindex")?,
            dev_name: self.offset("net_device", "name")?,
            dev_net: self.offset("net_device", "nd_net")?,
            dev_link_ops: self.offset("net_device", "rtnl_link_ops")?,
            dev_private: self.device_private()?,
            ops_kind: self.offset("rtnl_link_ops", "kind")?,
            net_inum: self.offset("net", "ns")? + self.offset("ns_common", "inum")?,
            sock_net: common("skc_net")?,
            sock_state: common("skc_state")?,
            sock_flags: common("skc_flags")?,
            dst_dev: self.offset("dst_entry", "dev")?,
            netns: 0,
            consumed: number("CONSUMED"),
            not_dropped: number("NOT_DROPPED_YET"),
            purged: number("QUEUE_PURGE"),
            no_socket: number("NO_SOCKET"),
            unspecified: if reasons.is_empty() {
                0
            } else {
                number("NOT_SPECIFIED")
            },
        };
        Ok(DropTypes { offsets, reasons })
    }

    /// Where a driver's own data is: a member since 6.11, before that right behind the device.
    fn device_private(&self) -> Result<u32, Error> {
        if let Ok(offset) = self.offset("net_device", "priv") {
            return Ok(offset);
        }
        let missing = || Error::Missing("net_device".to_owned());
        let (_, size) = self.named(kind::STRUCT, "net_device").ok_or_else(missing)?;
        Ok(size.next_multiple_of(DEVICE_ALIGNMENT))
    }

    /// Whether the tracepoint's third argument is the reason; the first must be the packet.
    fn has_reason(&self) -> Result<bool, Error> {
        let missing = || Error::Missing(format!("the tracepoint {TRACEPOINT}"));
        let (_, pointer) = self.named(kind::TYPEDEF, TRACEPOINT).ok_or_else(missing)?;
        let (_, _, function) = self.type_at(pointer).ok_or_else(missing)?;
        let (_, info, _) = self.type_at(function).ok_or_else(missing)?;
        let start = self.starts.get(function as usize).ok_or_else(missing)?;
        if kind_of(info) != kind::FUNC_PROTO {
            return Err(missing());
        }
        // Name and type of each; the first is the tracepoint's own.
        let parameter = |index: usize| {
            let at = *start as usize + TYPE_SIZE + index * 8;
            let mut pair = self.types.get(at..at + 8).filter(|_| index < vlen(info))?;
            pair.advance(4);
            self.type_at(pair.get_u32_ne())
        };
        let skb = parameter(1).and_then(|(_, _, target)| self.type_at(target));
        let is_skb = skb.is_some_and(|(name, info, _)| {
            kind_of(info) == kind::STRUCT && self.string(name) == b"sk_buff"
        });
        if !is_skb {
            let odd = format!("the packet as first argument of {TRACEPOINT}");
            return Err(Error::Missing(odd));
        }
        Ok(parameter(3).is_some_and(|(name, info, _)| {
            matches!(kind_of(info), kind::ENUM | kind::ENUM64)
                && self.string(name) == REASONS.as_bytes()
        }))
    }

    fn reasons(&self) -> BTreeMap<u32, String> {
        let Some((start, _)) = self.named(kind::ENUM, REASONS) else {
            return BTreeMap::new();
        };
        let count = self.head(start).map_or(0, |(_, info, _)| vlen(info));
        let values = (0..count).filter_map(|index| {
            let at = start + TYPE_SIZE + index * 8;
            let mut pair = self.types.get(at..at + 8)?;
            let name = String::from_utf8_lossy(self.string(pair.get_u32_ne())).into_owned();
            let short = name
                .strip_prefix("SKB_DROP_REASON_")
                .or_else(|| name.strip_prefix("SKB_"))
                .unwrap_or(&name);
            Some((pair.get_u32_ne(), short.to_owned()))
        });
        values.filter(|(_, name)| name != "MAX").collect()
    }

    /// Start, and size or type, of the first type of a kind and name.
    fn named(&self, wanted: u32, name: &str) -> Option<(usize, u32)> {
        self.starts.iter().skip(1).find_map(|start| {
            let (own, info, size) = self.head(*start as usize)?;
            (kind_of(info) == wanted && self.string(own) == name.as_bytes())
                .then_some((*start as usize, size))
        })
    }

    /// A type by its number.
    fn type_at(&self, id: u32) -> Option<(u32, u32, u32)> {
        self.starts
            .get(id as usize)
            .filter(|_| id != 0)
            .and_then(|start| self.head(*start as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_drops_of_the_running_kernel() -> Result<(), Error> {
        if !std::path::Path::new(super::super::VMLINUX).exists() {
            println!("skipped: {} is not there", super::super::VMLINUX);
            return Ok(());
        }
        let types = Btf::running()?.drops()?;
        let offsets = types.offsets;
        assert!(offsets.dev_private % DEVICE_ALIGNMENT == 0, "{offsets:?}");
        assert!(offsets.skb_data > offsets.skb_head, "{offsets:?}");
        if types.reasons.is_empty() {
            println!("this kernel gives no reasons");
            return Ok(());
        }
        assert!(types.reasons.values().any(|name| name == "NETFILTER_DROP"));
        assert_eq!(
            types.reasons.get(&offsets.unspecified).map(String::as_str),
            Some("NOT_SPECIFIED")
        );
        Ok(())
    }
}
