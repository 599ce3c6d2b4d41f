//! Series that end, and series that find no room.

use std::time::Instant;

use super::super::*;
use super::{Tested, value};
use crate::flow::{Counts, Direction, Identity, ProbeKind, ProbeResult, Role};
use crate::sink::fixture::{at, masqueraded, name, pod, pod_to_pod, through_service};

/// A cluster with the pods `web-0` and `db-0` of `pod_to_pod`, or without the second.
fn cluster(labels: &FlowLabels, with_db: bool) -> Present {
    let mut present = Present::new(labels);
    let apps = if with_db {
        &["web", "db"][..]
    } else {
        &["web"]
    };
    for app in apps {
        let Identity::Pod(pod) = pod("shop", app) else {
            panic!("no pod")
        };
        present.add_pod(&pod);
    }
    present.add_service(&name("shop", "front"));
    present
}

#[test]
fn series_of_what_is_gone_end_after_a_while_and_come_back_from_zero() -> Tested {
    let options = Options::default();
    let metrics = Metrics::new(&options)?;
    let series = "nodescope_flow_packets_total{class=\"pod-to-pod\",\
                  destination_namespace=\"shop\",destination_workload=\"db\",\
                  direction=\"forward\",source_namespace=\"shop\",source_workload=\"web\"}";
    for _ in 0..3 {
        metrics.observe([&pod_to_pod(), &through_service()]);
    }
    assert_value!(metrics, series, Some(6.0));
    let (before, without) = (
        cluster(&options.labels, true),
        cluster(&options.labels, false),
    );
    let later = Instant::now() + options.expiry;
    // What is there stays, however long it is silent; what is gone stays a while.
    metrics.end_series(&before, later);
    metrics.end_series(&without, Instant::now());
    assert_value!(metrics, series, Some(6.0));
    metrics.end_series(&without, later);
    assert_value!(metrics, series, None);
    let text = String::from_utf8(metrics.text(Format::Text)?)?;
    assert!(!text.contains("\"db\""), "{text}");
    metrics.observe([&pod_to_pod()]);
    assert_value!(metrics, series, Some(1.0));
    Ok(())
}

#[test]
fn series_without_names_stay() -> Tested {
    let metrics = Metrics::new(&Options {
        labels: FlowLabels::new([FlowLabel::DestinationPod]),
        ..Options::default()
    })?;
    metrics.observe([&masqueraded(), &pod_to_pod()]);
    let later = Instant::now() + DEFAULT_EXPIRY;
    metrics.end_series(&Present::new(&metrics.labels), later);
    let series = |class: &str, pod: &str| {
        let labels = format!("class=\"{class}\",destination_pod=\"{pod}\",direction=\"forward\"");
        format!("nodescope_flow_packets_total{{{labels}}}")
    };
    assert_value!(metrics, &series("pod-to-world", ""), Some(1.0));
    assert_value!(metrics, &series("pod-to-pod", "db-0"), None);
    Ok(())
}

#[test]
fn probes_of_what_is_gone_end_and_the_nodes_own_stay() -> Tested {
    let options = Options::default();
    let metrics = Metrics::new(&options)?;
    let ended = |namespace: &str, target: &str| Ended {
        kind: ProbeKind::Liveness,
        namespace: namespace.to_owned(),
        target: target.to_owned(),
        result: ProbeResult::Success,
        latency: None,
        seen: at(100),
    };
    let targets = [
        ("", "kube-proxy", true),
        ("shop", "front", true),
        ("shop", "web-0", true),
        ("shop", "db-0", false),
    ];
    let all = targets.map(|(namespace, target, _)| ended(namespace, target));
    metrics.observe_probes(&all, &[]);
    let later = Instant::now() + options.expiry;
    metrics.end_series(&cluster(&options.labels, false), later);
    for (namespace, target, stays) in targets {
        let labels = format!("kind=\"liveness\",namespace=\"{namespace}\"");
        let results = format!(
            "nodescope_probe_results_total{{{labels},result=\"success\",target=\"{target}\"}}"
        );
        let seen =
            format!("nodescope_probe_last_seen_timestamp_seconds{{{labels},target=\"{target}\"}}");
        assert_value!(metrics, &results, stays.then_some(1.0));
        assert_value!(metrics, &seen, stays.then_some(100.0));
    }
    Ok(())
}

#[test]
fn nothing_ends_before_the_api_has_told_what_there_is() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    metrics.observe([&pod_to_pod()]);
    let inventory = Inventory::default();
    let now = Instant::now();
    metrics.expire(&inventory, now);
    metrics.expire(&inventory, now + 2 * DEFAULT_EXPIRY);
    let text = String::from_utf8(metrics.text(Format::Text)?)?;
    assert!(text.contains("destination_workload=\"db\""), "{text}");
    Ok(())
}

#[test]
fn interfaces_beyond_the_limit_add_up() -> Tested {
    let metrics = Metrics::new(&Options {
        max_series: 1,
        ..Options::default()
    })?;
    let own = metrics.own();
    for packets in [4, 6] {
        for interface in ["eth0", "veth0", "veth1"] {
            let bytes = 0;
            own.set_hook(interface, Direction::Egress, Counts { packets, bytes }, 0);
        }
    }
    own.set_attached_hooks(["eth0", "veth0", "veth1"].map(|one| (one, Role::Pod, 2)));
    let hook = |name: &str| {
        format!("nodescope_hook_packets_total{{direction=\"{name}\",interface=\"{name}\"}}")
    };
    assert_value!(metrics, &hook("other"), Some(12.0));
    let eth0 = "nodescope_hook_packets_total{direction=\"egress\",interface=\"eth0\"}";
    assert_value!(metrics, eth0, Some(6.0));
    let others = "nodescope_attached_hooks{interface=\"other\",role=\"other\"}";
    assert_value!(metrics, others, Some(4.0));
    Ok(())
}
