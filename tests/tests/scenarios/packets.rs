//! Every kind of packet is in the record of its connection, with exact counts.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use nodescope_tests::lab::{Agent, Lab, Pod};

use crate::common::{Record, agent, counted, eventually, lab, metric, number, one, records};
use crate::frames::{ethernet, hex, ipv4, ipv6, tagged, udp};

/// Each frame is sent so often.
const TIMES: u64 = 3;

const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 200);

/// The newest record of the one connection from a port (for protocols with ports), or with a
/// protocol number as it stands in `nat.original` otherwise.
fn newest(agent: &Agent, what: &str, choose: impl Fn(&Record) -> bool) -> Result<Record> {
    let all = records(agent)?;
    all.into_iter()
        .rev()
        .find(choose)
        .with_context(|| format!("no record of {what}"))
}

fn from_port(port: u16) -> impl Fn(&Record) -> bool {
    move |record| {
        let tuple = record.tuple("/nat/original");
        tuple.is_some_and(|(source, _)| source.port() == port)
    }
}

/// What the pod's hook says it received: packets and bytes; and those of them in no record.
fn hook(agent: &Agent, pod: &Pod) -> Result<[u64; 2]> {
    let labels = [
        ("interface", pod.host_interface()),
        ("direction", "ingress"),
    ];
    let mut values = [0; 2];
    for (value, name) in values
        .iter_mut()
        .zip(["nodescope_hook_packets_total", "nodescope_hook_bytes_total"])
    {
        *value = metric(agent, name, &labels)?.unwrap_or(0.0) as u64;
    }
    Ok(values)
}

/// A kind of packet: the source port by which its record is known, its frames, and how many of
/// them a record takes.
struct Kind {
    what: &'static str,
    port: u16,
    frames: Vec<Vec<u8>>,
    counted: u64,
}

fn kinds(web: Ipv4Addr) -> Vec<Kind> {
    let ends = [web, NOBODY];
    let whole = (1, 0);
    let plain = |port: u16| ipv4(ends, 17, whole, 0, &udp(port, 9, b"nodescope"));
    let ends6 = [1, 2].map(|last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last));
    let inner = ethernet(0x0800, &plain(7777));
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0], &inner[..]].concat();
    // One word of options, Ethernet inside.
    let geneve = [&[1, 0, 0x65, 0x58, 0, 0, 43, 0, 0, 1, 0, 0], &inner[..]].concat();
    // SCTP: ports, verification tag, checksum, and an INIT chunk's head.
    let sctp: Vec<u8> = [
        &5008u16.to_be_bytes()[..],
        &9u16.to_be_bytes(),
        &[0; 8],
        &[1, 0, 0, 4],
    ]
    .concat();
    let whole_datagram = udp(5006, 9, &[b'n'; 40]);
    let fragments = |datagram: u16, parts: &[(u16, &[u8])]| {
        let parts = parts.iter();
        let made = parts
            .map(|(field, part)| ethernet(0x0800, &ipv4(ends, 17, (datagram, *field), 0, part)));
        made.collect::<Vec<_>>()
    };
    // Hop-by-hop and destination options, padded; RFC 8200 4.2: PadN of 4.
    let padding = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let extended = [&padding(60)[..], &padding(17), &udp(5005, 9, b"nodescope")].concat();
    let fragments6: Vec<_> = [(1u16, 0..24usize), (0x18, 24..48)]
        .into_iter()
        .map(|(field, range)| {
            let datagram = udp(5007, 9, &[b'n'; 40]);
            let header = [&[17, 0][..], &field.to_be_bytes(), &[0, 0, 0, 77]].concat();
            ethernet(
                0x86dd,
                &ipv6(ends6, 44, &[&header, &datagram[range]].concat()),
            )
        })
        .collect();
    let one = |what, port, frame| Kind {
        what,
        port,
        frames: vec![frame],
        counted: TIMES,
    };
    vec![
        one(
            "a VLAN tag",
            5001,
            tagged(&ethernet(0x0800, &plain(5001)), &[(0x8100, 10)]),
        ),
        one(
            "two VLAN tags",
            5002,
            tagged(
                &ethernet(0x0800, &plain(5002)),
                &[(0x88a8, 100), (0x8100, 200)],
            ),
        ),
        one(
            "IPv4 options",
            5004,
            ethernet(0x0800, &ipv4(ends, 17, whole, 10, &udp(5004, 9, b"n"))),
        ),
        one(
            "IPv6 extension headers",
            5005,
            ethernet(0x86dd, &ipv6(ends6, 0, &extended)),
        ),
        Kind {
            what: "fragments",
            port: 5006,
            frames: fragments(
                6,
                &[
                    (0x2000, &whole_datagram[..24]),
                    (0x2003, &whole_datagram[24..40]),
                    (5, &whole_datagram[40..]),
                ],
            ),
            counted: 3 * TIMES,
        },
        Kind {
            what: "IPv6 fragments",
            port: 5007,
            frames: fragments6,
            counted: 2 * TIMES,
        },
        one(
            "SCTP",
            5008,
            ethernet(0x0800, &ipv4(ends, 132, whole, 0, &sctp)),
        ),
        one(
            "VXLAN",
            5009,
            ethernet(0x0800, &ipv4(ends, 17, whole, 0, &udp(5009, 4789, &vxlan))),
        ),
        one(
            "Geneve",
            5010,
            ethernet(0x0800, &ipv4(ends, 17, whole, 0, &udp(5010, 6081, &geneve))),
        ),
    ]
}

#[test]
fn every_kind_of_packet_is_in_its_record() -> Result<()> {
    let Some(lab) = lab("kinds")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let web = lab.pod("web")?;
    let kinds = kinds(web.ip());
    // A later fragment that comes alone, and a frame that ends in an extension header.
    let orphan = ethernet(
        0x0800,
        &ipv4([web.ip(), NOBODY], 17, (99, 0x0010), 0, &[0; 16]),
    );
    let ends6 = [Ipv6Addr::LOCALHOST; 2];
    let cut = ethernet(0x86dd, &ipv6(ends6, 0, &[17]));
    let all: Vec<&Vec<u8>> = kinds
        .iter()
        .flat_map(|kind| &kind.frames)
        .chain([&orphan, &cut])
        .collect();

    let mut before = ([0; 2], [0; 2]);
    let link = |lab: &Lab| -> Result<[u64; 2]> {
        let stats = lab.link_stats(&lab.node(0), web.host_interface())?;
        Ok([stats.rx_packets, stats.rx_bytes])
    };
    eventually("nothing moves", || {
        let now = (link(&lab)?, hook(&agent, &web)?);
        let idle = now == before;
        before = now;
        Ok(idle)
    })?;
    let frames: Vec<String> = all.iter().map(|frame| hex(frame)).collect();
    let times = TIMES.to_string();
    let mut command = vec!["raw-send", "eth0"];
    command.extend(frames.iter().map(String::as_str));
    command.extend(["--count", &times]);
    web.run_lab(command)?.success()?;

    // The kernel takes an outer VLAN tag out of the frame before any hook, and its 4 bytes with
    // it; the interface has counted them.
    let stripped = 4 * 2 * TIMES;
    eventually("the hook saw what the interface counted", || {
        let (counted, seen) = (link(&lab)?, hook(&agent, &web)?);
        let counted = [counted[0] - before.0[0], counted[1] - before.0[1]];
        let seen = [seen[0] - before.1[0], seen[1] - before.1[1]];
        anyhow::ensure!(
            seen == [counted[0], counted[1] - stripped] && counted[0] >= TIMES * all.len() as u64,
            "hook {seen:?}, interface {counted:?}"
        );
        Ok(true)
    })?;
    for kind in &kinds {
        let record = one(&agent, kind.what, |record| {
            from_port(kind.port)(record)
                && number(record.ext("/forward/packets_total")) == Some(kind.counted)
        })?;
        let bytes: usize = kind.frames.iter().map(Vec::len).sum();
        let tags = if kind.what.contains("VLAN") { 4 } else { 0 };
        assert_eq!(
            number(record.ext("/forward/bytes_total")),
            Some(TIMES * (bytes - tags) as u64),
            "{}",
            kind.what
        );
        let hop = record.hop(web.host_interface())?;
        match kind.port {
            5001 => assert_eq!(hop.0["vlans"], serde_json::json!([10])),
            5002 => assert_eq!(hop.0["vlans"], serde_json::json!([100, 200])),
            5006 => assert_eq!(number(record.ext("/fragments/forward")), Some(2 * TIMES)),
            5007 => assert_eq!(number(record.ext("/fragments/forward")), Some(TIMES)),
            5008 => assert_eq!(record.flow("/l4/SCTP/destination_port"), 9),
            5009 | 5010 => {
                let (name, vni) = if kind.port == 5009 {
                    ("vxlan", 42)
                } else {
                    ("geneve", 43)
                };
                assert_eq!(record.ext("/encapsulation/kind"), name);
                assert_eq!(number(record.ext("/encapsulation/vni")), Some(vni));
                let inner = record.tuple("/encapsulation/inner");
                let inner = inner.context("no inner tuple")?;
                assert_eq!(inner.0.to_string(), format!("{}:7777", web.ip()));
                assert_eq!(inner.1.to_string(), format!("{NOBODY}:9"));
            }
            _ => {}
        }
    }
    let unattributed = |reason: &str| {
        let labels = [
            ("interface", web.host_interface()),
            ("direction", "ingress"),
            ("reason", reason),
        ];
        metric(&agent, "nodescope_hook_unattributed_packets_total", &labels)
    };
    assert_eq!(unattributed("fragment")?, Some(TIMES as f64));
    assert_eq!(unattributed("truncated")?, Some(TIMES as f64));
    assert_eq!(unattributed("extension_header")?.unwrap_or(0.0), 0.0);

    let wide = agent.cli(&["observe", "-o", "wide", "--last", "200"])?;
    let text = String::from_utf8_lossy(&wide.stdout);
    let inner = format!("vxlan 42: UDP {}:7777 -> {NOBODY}:9", web.ip());
    for word in [inner.as_str(), "vlan 100.200"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    Ok(())
}

/// A datagram in three fragments to a port that nobody has, over three hops and a translation:
/// all fragments are in one connection's record at every hop, and so is the ICMP error that
/// comes back, which is no answer.
#[test]
fn fragments_and_the_error_about_them_belong_to_the_connection() -> Result<()> {
    let Some(lab) = lab("quoted")? else {
        return Ok(());
    };
    let agent = agent(&lab, 0)?;
    let web = lab.pod("web")?;
    let onprem = lab.topology().onprem.address.addr();
    let capture = lab.tcpdump(&lab.node(0), &format!("(udp or icmp) and host {onprem}"))?;
    let to = format!("{onprem}:9");
    web.run_lab([
        "udp-send",
        &to,
        "--size",
        "4000",
        "--no-answer",
        "--source-port",
        "6006",
    ])?
    .success()?;
    let whole = |record: &Record| {
        from_port(6006)(record)
            && number(record.ext("/icmp_errors/to_initiator")) == Some(1)
            && record.path() == [web.host_interface(), "cbr0", "eth0"]
    };
    let record = one(&agent, "the datagram with its error", whole)?;
    assert_eq!(number(record.ext("/forward/packets_total")), Some(3));
    assert_eq!(number(record.ext("/reply/packets_total")), Some(0));
    assert_eq!(number(record.ext("/fragments/forward")), Some(2));
    assert_eq!(record.ext("/icmp_errors/message"), "port unreachable");
    assert_eq!(record.ext("/icmp_errors/from"), onprem.to_string().as_str());
    assert_eq!(record.ext("/nat/kind"), "snat");

    let mut seen = capture.stop_all()?;
    for interface in record.path() {
        let hop = record.hop(interface)?;
        let [ingress, egress] = hop.both_ways().context("the hop counts")?;
        let [error_in, error_out] = hop.errors();
        let ours = [
            (ingress.0 + error_in.0, ingress.1 + error_in.1),
            (egress.0 + error_out.0, egress.1 + error_out.1),
        ];
        let witness = counted(&seen.remove(interface).unwrap_or_default());
        assert_eq!(ours, witness, "{interface}");
        assert_eq!(error_in.0 + error_out.0, 1, "{interface}");
    }
    // The error is no connection of its own.
    let own = newest(&agent, "an ICMP message", |record| {
        record.flow("/l4/ICMPv4/type") == 3
    });
    assert!(own.is_err(), "{own:?}");
    Ok(())
}
