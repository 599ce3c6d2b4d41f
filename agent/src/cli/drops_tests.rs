//! Which losses are shown, and how.

use super::super::snapshot::{same, same_pages};
use super::*;

fn loss() -> DropReport {
    DropReport {
        node: "node-1".to_owned(),
        reason: "NETFILTER_DROP".to_owned(),
        hook: "veth0 ingress".to_owned(),
        direction: "ingress".to_owned(),
        protocol: "TCP".to_owned(),
        source_pod: "shop/web-0".to_owned(),
        source: "10.244.0.15".to_owned(),
        destination: "10.1.2.3".to_owned(),
        destination_port: 443,
        packets: 3,
        bytes: 222,
        ..DropReport::default()
    }
}

#[test]
fn flags_are_and_values_are_or() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let mut filters = Filters {
        ends: EndFilters {
            pod: words(&["api", "web"]),
            ..EndFilters::default()
        },
        reason: words(&["netfilter_drop"]),
    };
    assert!(filters.pass(&loss()));
    filters.ends.port = vec![80];
    assert!(!filters.pass(&loss()));
    filters.ends.port = vec![80, 443];
    filters.ends.namespace = words(&["default"]);
    assert!(!filters.pass(&loss()));
}

#[test]
fn a_line_says_between_whom_why_and_where() {
    let mut page = Page::new(Style::default());
    table(&mut page, &[loss()], false, SystemTime::UNIX_EPOCH);
    let text = page.text();
    let line: Vec<_> = text
        .lines()
        .nth(1)
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(
        line[2..],
        [
            "NETFILTER_DROP",
            "shop/web-0",
            "10.1.2.3:443",
            "TCP",
            "3",
            "veth0",
            "ingress",
            "node-1"
        ]
    );
}

#[test]
fn a_kernel_without_reasons_is_told() {
    let answer = ListDropsResponse {
        node: "n".to_owned(),
        ..ListDropsResponse::default()
    };
    assert!(remarks(&answer)[0].contains("does not say why"));
    let off = ListDropsResponse {
        off: "no BTF".to_owned(),
        forgotten: 2,
        ..answer
    };
    let lines = remarks(&off);
    assert!(lines[0].ends_with("no BTF") && lines[1].contains("2 older"));
}

#[test]
fn pages_as_they_were() -> anyhow::Result<()> {
    let (all, now) = ([loss()], SystemTime::UNIX_EPOCH);
    same_pages("drops", |page| table(page, &all, false, now));
    same_pages("drops-wide", |page| table(page, &all, true, now));
    same_pages("drops-none", |page| table(page, &[], false, now));
    let mut page = Page::new(Style::default());
    page.objects(DROP_REPORT, &all)?;
    page.lines(all.iter().map(compact));
    same("drops-lines", page.text());
    Ok(())
}
