//! Which translations are shown, and how.

use std::time::{Duration, UNIX_EPOCH};

use clap::Parser;

use super::super::nat_rows;
use super::super::snapshot::{same, same_pages};
use super::*;
use crate::sink::proto::node::PodPorts;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn filters(line: &str) -> Result<Filters, clap::Error> {
    let words = std::iter::once("nat").chain(line.split_whitespace());
    Ok(Line::try_parse_from(words)?.args.filters)
}

fn tuple(src: &str, sport: u32) -> Option<NatTuple> {
    Some(NatTuple {
        src: src.to_owned(),
        sport,
        dst: "10.224.1.2".to_owned(),
        dport: 8080,
    })
}

fn masqueraded() -> Translation {
    Translation {
        node: "node-0".to_owned(),
        connection: "00000000000000ab".to_owned(),
        protocol: "TCP".to_owned(),
        original: tuple("10.244.0.15", 40_000),
        translated: tuple("10.224.0.4", 40_001),
        kind: "snat".to_owned(),
        cause: "masquerade".to_owned(),
        expected: "translated".to_owned(),
        configured: "everything but 10.244.0.0/16 is masqueraded".to_owned(),
        observed: "10.244.0.15:40000 was translated to 10.224.0.4:40001".to_owned(),
        source: "skb".to_owned(),
        source_pod: "shop/web-0".to_owned(),
        started: Some((UNIX_EPOCH + Duration::from_secs(100)).into()),
        ..Translation::default()
    }
}

#[test]
fn filters_fit_either_end_before_or_after() -> Result<(), clap::Error> {
    let one = masqueraded();
    for good in [
        "",
        "--pod web",
        "--pod shop/",
        "-n shop --pod web-0",
        "--ip 10.244.0.15",
        "--ip 10.224.0.4",
        "--ip 10.244.0.0/16 --port 40001 --protocol tcp",
        "--pod db --pod web",
    ] {
        assert!(filters(good)?.pass(&one), "{good}");
    }
    for bad in [
        "--pod db",
        "-n other",
        "--ip 10.244.1.0/24",
        "--port 41000",
        "--protocol udp",
        "--service web",
    ] {
        assert!(!filters(bad)?.pass(&one), "{bad}");
    }
    let Err(error) = filters("--ip 10.0.0.0/33") else {
        panic!("accepted")
    };
    assert!(error.to_string().contains("10.0.0.0/33"), "{error}");
    Ok(())
}

#[test]
fn a_mismatch_is_shown_with_both_sides() {
    let mut wrong = masqueraded();
    wrong.expected = "kept".to_owned();
    wrong.mismatch = true;
    wrong.configured = "10.224.0.0/16 is not masqueraded (ConfigMap x)".to_owned();
    let mut page = Page::new(Style::default());
    let now = UNIX_EPOCH + Duration::from_secs(163);
    nat_rows::translations(&mut page, &[masqueraded(), wrong], false, now);
    let wanted = "\
PROTO  POD         BEFORE                                AFTER                                \
CAUSE       EXPECTED    VERDICT        AGE
TCP    shop/web-0  10.244.0.15:40000 -> 10.224.1.2:8080  10.224.0.4:40001 -> 10.224.1.2:8080  \
masquerade  translated  as configured  1m 3s
TCP    shop/web-0  10.244.0.15:40000 -> 10.224.1.2:8080  10.224.0.4:40001 -> 10.224.1.2:8080  \
masquerade  kept        MISMATCH       1m 3s

mismatch 00000000000000ab: configured: 10.224.0.0/16 is not masqueraded (ConfigMap x); \
observed: 10.244.0.15:40000 was translated to 10.224.0.4:40001
";
    assert_eq!(page.text(), wanted);
}

/// Whose translations they are is shown where there is a choice.
#[test]
fn translations_of_several_nodes_name_them() {
    let mut other = masqueraded();
    other.node = "node-1".to_owned();
    let now = UNIX_EPOCH + Duration::from_secs(163);
    let lines = |all: &[Translation]| {
        let mut page = Page::new(Style::default());
        nat_rows::translations(&mut page, all, false, now);
        let text = page.text();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let several = lines(&[masqueraded(), other]);
    for (line, end) in several.iter().zip(["  NODE", "  node-0", "  node-1"]) {
        assert!(line.ends_with(end), "{line}");
    }
    let one = lines(&[masqueraded(), masqueraded()]);
    assert!(
        one.iter()
            .all(|line| !line.contains("NODE") && !line.contains("node-0"))
    );
}

#[test]
fn ports_by_destination_name_the_pods() -> Result<(), clap::Error> {
    let pods = |name: &str, connections| PodPorts {
        pod: name.to_owned(),
        connections,
    };
    let one = SnatPorts {
        node: "node-0".to_owned(),
        address: "10.224.1.2".to_owned(),
        port: 443,
        protocol: "TCP".to_owned(),
        from: "10.224.0.4".to_owned(),
        ports: 9,
        pods: vec![
            pods("a/a", 4),
            pods("a/b", 3),
            pods("a/c", 1),
            pods("a/d", 1),
        ],
    };
    assert!(filters("--pod a/d --port 443")?.pass_ports(&one));
    assert!(!filters("--pod e")?.pass_ports(&one));
    let mut page = Page::new(Style::default());
    nat_rows::ports(&mut page, &[one], false);
    let wanted = "\
DESTINATION     PROTO  PORTS  FROM        NODE    PODS
10.224.1.2:443  TCP    9      10.224.0.4  node-0  a/a (4), a/b (3), a/c (1), and 1 more
";
    assert_eq!(page.text(), wanted);
    Ok(())
}

#[test]
fn pages_as_they_were() -> anyhow::Result<()> {
    let mut wrong = masqueraded();
    wrong.mismatch = true;
    let (all, now) = (
        [masqueraded(), wrong],
        UNIX_EPOCH + Duration::from_secs(163),
    );
    let ports = [SnatPorts {
        node: "node-0".to_owned(),
        address: "10.224.1.2".to_owned(),
        port: 443,
        protocol: "TCP".to_owned(),
        from: "10.224.0.4".to_owned(),
        ports: 9,
        pods: vec![PodPorts {
            pod: "shop/web-0".to_owned(),
            connections: 9,
        }],
    }];
    same_pages("nat-ports", |page| nat_rows::ports(page, &ports, false));
    for (name, wide) in [("nat", false), ("nat-wide", true)] {
        let mut page = Page::new(Style::default());
        nat_rows::translations(&mut page, &all, wide, now);
        same(name, page.text());
    }
    let mut page = Page::new(Style {
        colour: true,
        width: Some(80),
    });
    nat_rows::translations(&mut page, &all[..1], false, now);
    same("nat-narrow", page.text());
    let mut page = Page::new(Style::default());
    page.objects(json::TRANSLATION, &all)?;
    page.lines(all.iter().map(nat_rows::compact_translation));
    page.objects(json::SNAT_PORTS, &ports)?;
    page.lines(ports.iter().map(nat_rows::compact_ports));
    same("nat-lines", page.text());
    Ok(())
}
