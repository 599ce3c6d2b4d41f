//! The type of the first question of a DNS message.

use bytes::Buf as _;
use nodescope_ebpf::DNS_HEAD;

/// Where the number of questions is in the header (RFC 1035, 4.1.1).
const COUNT: usize = 4;

/// Types that clients ask for (IANA "DNS Resource Record TYPEs"). There are no others in labels of
/// metrics: a pod may ask for any of 65,536.
const TYPES: [(u16, &str); 22] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (43, "DS"),
    (44, "SSHFP"),
    (46, "RRSIG"),
    (48, "DNSKEY"),
    (52, "TLSA"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (257, "CAA"),
];

/// Any other type.
const OTHER: &str = "other";

/// The name of the type that is asked for; empty when the message's head does not reach to it.
pub(super) fn kind(message: &[u8]) -> &'static str {
    let Some(number) = number(message) else {
        return "";
    };
    let known = TYPES.iter().find(|(known, _)| *known == number);
    known.map_or(OTHER, |(_, name)| name)
}

/// The type behind the first name, which is passed over: labels, each with its length before it,
/// to the empty one. It has nothing before it that it could be abbreviated by (RFC 1035, 4.1.4).
fn number(message: &[u8]) -> Option<u16> {
    /// Of a label's length; the two bits above say that it is none.
    const LONGEST: u8 = 63;
    if message.get(COUNT..)?.try_get_u16().ok()? == 0 {
        return None;
    }
    let mut rest = message.get(DNS_HEAD..)?;
    loop {
        match rest.try_get_u8().ok()? {
            0 => return rest.try_get_u16().ok(),
            length @ 1..=LONGEST => rest = rest.get(usize::from(length)..)?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with so many questions, and what is behind it.
    fn message(count: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, count, 0, 1, 0, 0, 0, 0];
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn the_type_is_behind_the_name() {
        let whole = b"\x03api\x07default\x00\x00\x1c\x00\x01";
        assert_eq!(kind(&message(1, whole)), "AAAA");
        // The root; a type that is no usual one.
        assert_eq!(kind(&message(1, &[0, 0, 2, 0, 1])), "NS");
        assert_eq!(kind(&message(1, &[0, 0xff, 0xfe, 0, 1])), OTHER);
        // The longest name there is: 255 bytes with its lengths.
        let mut long = Vec::new();
        for length in [63_u8, 63, 63, 61] {
            long.push(length);
            long.extend(vec![b'x'; usize::from(length)]);
        }
        long.extend([0, 0, 33, 0, 1]);
        let long = message(1, &long);
        assert_eq!(long.len(), nodescope_ebpf::DNS_QUESTION);
        assert_eq!(kind(&long), "SRV");
    }

    #[test]
    fn what_is_cut_off_or_none_has_no_type() {
        let whole = message(1, b"\x03api\x07default\x00\x00\x1c");
        for length in 0..whole.len() {
            assert_eq!(kind(&whole[..length]), "", "{length} bytes");
        }
        assert_eq!(kind(&message(0, &[0, 0, 1, 0, 1])), "", "no question");
        assert_eq!(kind(&message(1, &[0xc0, 12, 0, 1, 0, 1])), "", "a pointer");
        assert_eq!(kind(&message(1, &[0x40, 0, 0, 1, 0, 1])), "", "no label");
    }
}
