//! The id of a record: the same wherever the record is read, and nobody else's.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::flow::Flow;
use crate::sink::names;

/// A UUID of version 8 (RFC 9562, section 5.8) from what makes a record one of its kind: node,
/// connection, event and time, and of a loss the way it went, its reason and place.
pub(super) fn of(flow: &Flow) -> String {
    let since_epoch = flow.time.duration_since(SystemTime::UNIX_EPOCH);
    let nanos = since_epoch.unwrap_or_default().as_nanos();
    let mut hash = Fnv128::new();
    hash.add(flow.node.as_bytes());
    hash.add(&flow.connection.to_be_bytes());
    hash.add(names::event(flow.event).as_bytes());
    hash.add(&nanos.to_be_bytes());
    if let Some(drop) = &flow.drop {
        // Both directions of a connection can lose packets at one place.
        for end in [flow.tuple.source, flow.tuple.destination] {
            hash.add(&address(end.ip()).to_be_bytes());
            hash.add(&end.port().to_be_bytes());
        }
        hash.add(drop.reason.as_bytes());
        hash.add(drop.hook().as_bytes());
    }
    // Version in the high half of byte 6, variant in the two high bits of byte 8.
    let bits = hash.0 & !(0xf << 76) & !(0b11 << 62) | (8 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// An IPv4 address as the IPv6 address that stands for it (RFC 4291, section 2.5.5.2).
fn address(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// 128-bit FNV-1a (draft-eastlake-fnv, section 5: offset basis and prime).
struct Fnv128(u128);

impl Fnv128 {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn add(&mut self, bytes: &[u8]) {
        // The length keeps ("a", "bc") and ("ab", "c") apart.
        let length = (bytes.len() as u64).to_be_bytes();
        for byte in length.iter().chain(bytes) {
            let mixed = self.0 ^ u128::from(*byte);
            self.0 = mixed.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::flow::{Direction, Drop, Event};
    use crate::sink::fixture::{at, masqueraded, pod_to_pod};

    /// Packets that died, of one direction or the other.
    fn lost(reply: bool) -> Flow {
        let mut flow = pod_to_pod();
        flow.event = Event::Drop;
        flow.drop = Some(Drop {
            reason: "OTHERHOST".into(),
            interface: "cbr0".into(),
            in_pod: false,
            direction: Direction::Ingress,
            function: None,
        });
        if reply {
            std::mem::swap(&mut flow.tuple.source, &mut flow.tuple.destination);
        }
        flow
    }

    #[test]
    fn is_a_uuid_of_version_8() {
        let id = of(&pod_to_pod());
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "8");
        assert!("89ab".contains(&id[19..20]), "{id}");
    }

    #[test]
    fn is_the_same_for_the_same_record_and_another_for_any_other() {
        assert_eq!(of(&pod_to_pod()), of(&pod_to_pod()));
        let mut later = pod_to_pod();
        later.time = at(101);
        let (forward, reply) = (lost(false), lost(true));
        let all = [pod_to_pod(), masqueraded(), later, forward, reply];
        let ids: BTreeSet<_> = all.iter().map(of).collect();
        assert_eq!(ids.len(), all.len());
    }
}
