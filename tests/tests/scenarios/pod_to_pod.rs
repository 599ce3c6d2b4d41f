//! Scenarios 6, 7 and 9: pods among each other.

use anyhow::Result;
use nodescope_tests::lab::{Lab, Model};
use serde_json::json;

use crate::common::{agent, between, build, closed, counted, get, models, of_model, one, way};

/// Scenario 6: one connection from interface to interface, kubenet's bridge named and not counted,
/// no eth0.
#[test]
fn scenario_06_same_node_is_bridged_or_routed_and_never_leaves() -> Result<()> {
    for (model, promiscuous) in [
        (Model::Kubenet, false),
        (Model::Kubenet, true),
        (Model::AzureCni, false),
        (Model::Overlay, false),
    ]
    .into_iter()
    .filter(|(model, _)| models(6).contains(model))
    {
        let name = format!("s06{}", model.short());
        let Some(lab) = build(&name, model, promiscuous)? else {
            return Ok(());
        };
        let agent = agent(&lab, 0)?;
        let (web, web2) = (lab.pod("web")?, lab.pod("web2")?);
        let (from, to) = (web.ip().to_string(), web2.ip().to_string());
        let capture = lab.tcpdump(&lab.node(0), &format!("tcp and host {from} and host {to}"))?;

        let seen = get(&web.netns(), &format!("http://{to}:8080/"))?;

        let record = closed(&agent, "the closed connection web → web2", |record| {
            between(record, &from, &to, 8080)
        })?;
        assert_eq!(
            record.path(),
            way(model, web.host_interface(), web2.host_interface()),
            "{model:?}, promiscuous: {promiscuous}"
        );
        // The bridge forwards between its ports: it is on the way, and no hook of its own counts,
        // not even when it is promiscuous and gets copies.
        if model == Model::Kubenet {
            let bridge = record.hop("cbr0")?;
            assert_eq!(bridge.both_ways(), None, "{:?}", bridge.0);
            assert_eq!(bridge.0["role"], "bridge");
        }

        let mut all = capture.stop_all()?;
        for interface in [web.host_interface(), web2.host_interface()] {
            let witness = counted(&all.remove(interface).unwrap_or_default());
            assert_eq!(
                record.hop(interface)?.both_ways(),
                Some(witness),
                "{interface}, {model:?}, promiscuous: {promiscuous}"
            );
            assert!(witness[0].0 > 0 && witness[1].0 > 0, "tcpdump saw nothing");
        }
        assert!(record.hop(web.host_interface())?.is_ingress());
        assert!(!record.hop(web2.host_interface())?.is_ingress());
        assert!(!all.contains_key("eth0"), "tcpdump saw it on eth0");

        assert_eq!(record.ext("/nat/kind"), "none");
        assert_eq!(record.ext("/class"), "pod-to-pod");
        assert_eq!(record.ext("/scope"), "same-node");
        assert_eq!(record.ext("/tcp/state"), "closed");
        assert_eq!(record.flow("/source/pod_name"), &json!(web.name()));
        assert_eq!(record.flow("/destination/pod_name"), &json!(web2.name()));
        assert_eq!(
            record.hop(web.host_interface())?.0["pod"],
            json!(format!("default/{}", web.name()))
        );
        assert_eq!(
            record.hop(web2.host_interface())?.0["pod"],
            json!(format!("default/{}", web2.name()))
        );
        assert_eq!(
            record.remote_sees().map(|seen| seen.to_string()),
            seen["peer"].as_str().map(str::to_owned)
        );
        // Totals of the record are those of the first hop.
        let [(packets, _), (replies, _)] = counted_at(&record, web.host_interface())?;
        assert_eq!(
            crate::common::number(record.ext("/forward/packets_total")),
            Some(packets)
        );
        assert_eq!(
            crate::common::number(record.ext("/reply/packets_total")),
            Some(replies)
        );
    }
    Ok(())
}

fn counted_at(record: &crate::common::Record, interface: &str) -> Result<[(u64, u64); 2]> {
    let hop = record.hop(interface)?;
    hop.both_ways()
        .ok_or_else(|| anyhow::anyhow!("{interface} has no counts"))
}

/// Scenario 7: routed to the other node; each node's agent has its leg; the source is kept.
#[test]
fn scenario_07_other_node_has_both_legs() -> Result<()> {
    for model in models(7) {
        let Some(lab) = of_model("s07", model)? else {
            return Ok(());
        };
        both_legs(model, &lab)?;
    }
    Ok(())
}

fn both_legs(model: Model, lab: &Lab) -> Result<()> {
    let agents = [agent(lab, 0)?, agent(lab, 1)?];
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let (from, to) = (web.ip().to_string(), api.ip().to_string());
    let filter = format!("tcp and host {from} and host {to}");
    let captures = [
        lab.tcpdump(&lab.node(0), &filter)?,
        lab.tcpdump(&lab.node(1), &filter)?,
    ];

    let seen = get(&web.netns(), &format!("http://{to}:8080/"))?;
    assert_eq!(seen["peer"], seen["local"], "the source is kept");

    let paths = [
        way(model, web.host_interface(), "eth0"),
        way(model, "eth0", api.host_interface()),
    ];
    for ((agent, capture), path) in agents.iter().zip(captures).zip(paths) {
        let record = closed(agent, "the closed leg of web → api", |record| {
            between(record, &from, &to, 8080)
        })?;
        assert_eq!(record.path(), path);
        let mut all = capture.stop_all()?;
        for interface in path {
            let witness = counted(&all.remove(interface).unwrap_or_default());
            assert_eq!(
                record.hop(interface)?.both_ways(),
                Some(witness),
                "{interface}"
            );
        }
        assert_eq!(record.ext("/nat/kind"), "none");
        assert_eq!(record.ext("/class"), "pod-to-pod");
        assert_eq!(record.ext("/scope"), "cross-node");
        assert_eq!(record.flow("/source/pod_name"), &json!(web.name()));
        assert_eq!(record.flow("/destination/pod_name"), &json!(api.name()));
        assert_eq!(
            record.remote_sees().map(|seen| seen.to_string()),
            seen["peer"].as_str().map(str::to_owned)
        );
    }
    Ok(())
}

/// Scenario 9: an echo with its round-trip time, TCP with its handshake's.
#[test]
fn scenario_09_round_trip_times() -> Result<()> {
    for model in models(9) {
        let Some(lab) = of_model("s09", model)? else {
            return Ok(());
        };
        round_trips(&lab)?;
    }
    Ok(())
}

fn round_trips(lab: &Lab) -> Result<()> {
    let agent = agent(lab, 0)?;
    let (web, api) = (lab.pod("web")?, lab.pod("api")?);
    let (from, to) = (web.ip().to_string(), api.ip().to_string());
    let ping = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "1", &to];
    web.run(ping)?.success()?;
    let echo = one(&agent, "three echoes and their answers", |record| {
        between(
            record,
            &from,
            &to,
            record.tuple("/nat/original").map_or(0, |t| t.1.port()),
        ) && record.flow("/l4/ICMPv4").is_object()
            && crate::common::number(record.ext("/reply/packets_total")) == Some(3)
    })?;
    assert_eq!(
        crate::common::number(echo.ext("/forward/packets_total")),
        Some(3)
    );
    // 20 bytes of IPv4, 8 of ICMP, 56 of ping's own, 14 of Ethernet.
    assert_eq!(
        crate::common::number(echo.ext("/forward/bytes_total")),
        Some(3 * 98)
    );
    let rtt = echo.ext("/icmp/echo_rtt_seconds").as_f64();
    assert!(rtt.is_some_and(|rtt| rtt > 0.0), "{rtt:?}");

    get(&web.netns(), &format!("http://{to}:8080/"))?;
    let tcp = closed(&agent, "the closed connection web → api", |record| {
        between(record, &from, &to, 8080)
    })?;
    let rtt = tcp.ext("/tcp/handshake_rtt_seconds").as_f64();
    assert!(rtt.is_some_and(|rtt| rtt > 0.0), "{rtt:?}");
    Ok(())
}
