//! VLAN tags and extension headers, and what is behind them.

use super::*;

/// A frame with tags between the hardware addresses and the type.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut all = frame[..12].to_vec();
    for (kind, control) in tags {
        all.extend(kind.to_be_bytes());
        all.extend(control.to_be_bytes());
    }
    all.extend(&frame[12..]);
    all
}

#[test]
fn vlan_tags_are_looked_behind() {
    let frame = ipv4(6, 3, 0, &tcp(tcp_flag::ACK));
    let bare = read(&frame).unwrap();
    // Priority 5 is no part of the identifier.
    let single = tagged(&frame, &[(0x8100, 0xa00a)]);
    let double = tagged(&frame, &[(0x88a8, 100), (0x8100, 200)]);
    assert_eq!(read(&single), Ok(bare));
    assert_eq!(read(&double), Ok(bare));
    assert_eq!(everything(&single).tags, [TAG | 10, 0]);
    assert_eq!(everything(&double).tags, [TAG | 100, TAG | 200]);
    assert!(!is_plain(&single) && !everything(&single).is_plainly_laid_out());
    let triple = tagged(&double, &[(0x8100, 1)]);
    assert_eq!(read(&triple), Err(Reason::Tagged));
}

/// Extension headers in front of `payload`, as (number, bytes behind the next header's number).
pub fn chained(headers: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for (at, (_, rest)) in headers.iter().enumerate() {
        all.push(headers.get(at + 1).map_or(last, |(number, _)| *number));
        all.extend(rest);
    }
    all.extend(payload);
    ipv6(headers.first().map_or(last, |(number, _)| *number), &all)
}

#[test]
fn extension_headers_are_looked_behind() {
    let short = |number| (number, vec![0; 7]);
    let long = |number| (number, [vec![2], vec![0; 22]].concat());
    // RFC 4302: a length of 4 is 24 bytes.
    let authentication = (51, [vec![4], vec![0; 22]].concat());
    let fragment = |offset: u16| {
        (
            44,
            [vec![0], offset.to_be_bytes().to_vec(), vec![0, 0, 0, 9]].concat(),
        )
    };
    let bare = read(&ipv6(6, &tcp(tcp_flag::ACK))).unwrap();
    for headers in [
        vec![short(0)],
        vec![long(43)],
        vec![
            long(0),
            long(60),
            short(43),
            authentication.clone(),
            short(60),
        ],
        vec![authentication],
        // A datagram that is one fragment (RFC 6946).
        vec![fragment(0)],
    ] {
        let frame = chained(&headers, 6, &tcp(tcp_flag::ACK));
        assert_eq!(read(&frame), Ok(bare), "{headers:?}");
        assert!(!is_plain(&frame));
    }
    let many: Vec<_> = (0..7).map(|_| short(60)).collect();
    assert_eq!(
        read(&chained(&many[..6], 6, &tcp(0))).map(|p| p.protocol),
        Ok(6)
    );
    assert_eq!(read(&chained(&many, 6, &tcp(0))), Err(Reason::Extension));
    // No next header: a conversation without ports.
    assert_eq!(
        read(&chained(&many[..1], 59, &[])).map(|p| p.protocol),
        Ok(59)
    );
    // A chain that ends before its transport header.
    assert_eq!(
        read(&chained(&[long(0)], 6, &tcp(0)[..10])),
        Err(Reason::Truncated)
    );
    // Fragments, behind a header of their own.
    let first = everything(&chained(
        &[short(0), fragment(1)],
        17,
        &[0, 1, 0, 2, 0, 8, 0, 0],
    ));
    assert_eq!(
        (first.part, first.datagram, first.packet.source_port),
        (Part::First, 9, 1)
    );
    let later = everything(&chained(&[short(0), fragment(0x11)], 17, &[0; 8]));
    assert_eq!(
        (later.part, later.datagram, later.packet.source_port),
        (Part::Later, 9, 0)
    );
}
