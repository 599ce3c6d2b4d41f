//! The kernel's reasons for a drop in the words of the Hubble API, which has those of another
//! datapath: only those that mean the same have one.

use crate::sink::proto::flow::DropReason;

/// The word for a kernel's reason (`enum skb_drop_reason` without its prefix,
/// include/net/dropreason-core.h).
pub(super) fn of(kernel: &str) -> DropReason {
    match kernel {
        // Which rule, and whose, the kernel does not tell.
        "NETFILTER_DROP" => DropReason::PolicyDenied,
        "OTHERHOST" => DropReason::InvalidDestinationMac,
        "IP_RPFILTER" | "IP_INVALID_SOURCE" | "IP_LOCAL_SOURCE" | "INVALID_SADDR" => {
            DropReason::InvalidSourceIp
        }
        "IP_CSUM" | "IP_INHDR" | "TCP_CSUM" | "UDP_CSUM" | "ICMP_CSUM" | "SKB_CSUM"
        | "PKT_TOO_SMALL" | "HDR_TRUNC" => DropReason::InvalidPacketDropped,
        "UNHANDLED_PROTO" => DropReason::UnsupportedL3Protocol,
        "IP_NOPROTO" => DropReason::UnknownL4Protocol,
        "IP_INNOROUTES" | "IP_OUTNOROUTES" => DropReason::FibLookupFailed,
        _ => DropReason::Unknown,
    }
}
