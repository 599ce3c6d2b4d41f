//! What `nodescope probes` prints.

use super::super::snapshot::{same, same_pages};
use super::*;

fn target() -> ProbeTarget {
    ProbeTarget {
        node_name: "node-0".to_owned(),
        kind: "lb".to_owned(),
        namespace: "default".to_owned(),
        service: "web".to_owned(),
        port: 32_000,
        protocol: "http".to_owned(),
        presence: "arriving".to_owned(),
        result: "success".to_owned(),
        status: "200".to_owned(),
        success_ratio: Some(1.0),
        local_endpoints: Some(1),
        api_local_endpoints: Some(2),
        agrees: Some(false),
        interval: Some(prost_types::Duration {
            seconds: 5,
            nanos: 0,
        }),
        latency: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1_500_000,
        }),
        ..ProbeTarget::default()
    }
}

#[test]
fn a_disagreement_stands_out() {
    let shown = |wide| {
        let mut page = Page::new(Style::default());
        targets_table(&mut page, &[target()], wide);
        page.text().to_owned()
    };
    let page = shown(false);
    for part in [
        "default/web",
        "32000/http",
        "success 200",
        "1 (DISAGREES)",
        "5.0s",
        "1.5ms",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("WEIGHT"), "{page}");
    assert!(shown(true).contains("WEIGHT"));
}

#[test]
fn probes_that_stopped_are_not_called_healthy() {
    let mut absent = target();
    absent.presence = "absent".to_owned();
    assert!(row(&absent)[5].starts_with("ABSENT"));
    absent.presence = "never-seen".to_owned();
    absent.result = String::new();
    assert_eq!(row(&absent)[5], "never-seen");
}

#[test]
fn services_by_name() {
    assert_eq!(service("web"), Ok(("default".to_owned(), "web".to_owned())));
    assert_eq!(service("a/b"), Ok(("a".to_owned(), "b".to_owned())));
    for bad in ["", "/b", "a/", "a/b/c"] {
        assert!(service(bad).is_err(), "{bad}");
    }
}

#[test]
fn pages_as_they_were() {
    let mut absent = target();
    absent.presence = "absent".to_owned();
    absent.node_name = "aks-nodepool1-11743156-vmss000001".to_owned();
    let targets = [target(), absent];
    let happenings = [ProbeHappening {
        time: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        node_name: "node-0".to_owned(),
        what: "answer".to_owned(),
        detail: "the health check answers 503 with 0 local endpoints, the API has 1 that is ready \
                 on this node"
            .to_owned(),
    }];
    same_pages("probes", |page| targets_table(page, &targets, false));
    same_pages("probes-wide", |page| targets_table(page, &targets, true));
    same_pages("probes-timeline", |page| {
        happenings_table(page, &happenings)
    });
    same_pages("probes-none", |page| targets_table(page, &[], false));
    same(
        "probes-compact",
        &targets.each_ref().map(compact).join("\n"),
    );
}
