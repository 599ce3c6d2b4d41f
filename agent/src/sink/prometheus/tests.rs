//! What flows and the agent add up to, in the text that Prometheus reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::flow::{Class, Counts, Direction, Drop, Event, Flow, Role, TcpState};
use crate::insight::dns::Answered;
use crate::sink::fixture::{masqueraded, ping, pod_to_pod, through_service};

type Tested = anyhow::Result<()>;

fn as_event(mut flow: Flow, event: Event) -> Flow {
    flow.event = event;
    flow
}

/// The value of a series, written as in the text.
fn value(metrics: &Metrics, series: &str) -> anyhow::Result<Option<f64>> {
    let text = String::from_utf8(metrics.text(Format::Text)?)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{series} ")));
    Ok(line.map(str::parse).transpose()?)
}

macro_rules! assert_value {
    ($metrics:expr, $series:expr, $value:expr) => {
        assert_eq!(value(&$metrics, $series)?, $value, "{}", $series)
    };
}

mod expiry;

#[test]
fn traffic_adds_up_by_class_direction_and_workloads() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    metrics.observe([&as_event(pod_to_pod(), Event::Open), &pod_to_pod()]);
    let labels = "class=\"pod-to-pod\",destination_namespace=\"shop\",\
                  destination_workload=\"db\",direction=\"forward\",source_namespace=\"shop\",\
                  source_workload=\"web\"";
    assert_value!(
        metrics,
        &format!("nodescope_flow_packets_total{{{labels}}}"),
        Some(2.0)
    );
    assert_value!(
        metrics,
        &format!("nodescope_flow_bytes_total{{{labels}}}"),
        Some(200.0)
    );
    Ok(())
}

#[test]
fn labels_are_those_asked_for() -> Tested {
    let labels = FlowLabels::new(
        ["source_pod".parse(), Ok(FlowLabel::SourcePod)]
            .into_iter()
            .flatten(),
    );
    let metrics = Metrics::new(&Options {
        labels,
        ..Options::default()
    })?;
    metrics.observe([&pod_to_pod()]);
    let series = "nodescope_flow_packets_total\
                  {class=\"pod-to-pod\",direction=\"reply\",source_pod=\"web-0\"}";
    assert_value!(metrics, series, Some(1.0));
    assert!("pod".parse::<FlowLabel>().is_err());
    Ok(())
}

#[test]
fn connections_are_counted_once_and_close() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    let opened = "nodescope_connections_opened_total{class=\"pod-to-pod\"}";
    let active = "nodescope_connections_active{class=\"pod-to-pod\"}";
    metrics.observe([&as_event(pod_to_pod(), Event::Open)]);
    metrics.observe([&as_event(pod_to_pod(), Event::Update)]);
    assert_value!(metrics, opened, Some(1.0));
    assert_value!(metrics, active, Some(1.0));
    let mut reclassed = as_event(pod_to_pod(), Event::Update);
    reclassed.class = Class::Other;
    metrics.observe([&reclassed]);
    assert_value!(metrics, active, Some(0.0));
    assert_value!(
        metrics,
        "nodescope_connections_active{class=\"other\"}",
        Some(1.0)
    );
    reclassed.event = Event::Close;
    metrics.observe([&reclassed]);
    assert_value!(
        metrics,
        "nodescope_connections_active{class=\"other\"}",
        Some(0.0)
    );
    assert_value!(metrics, opened, Some(1.0));
    assert_value!(metrics, "nodescope_tcp_handshake_seconds_count", Some(1.0));
    assert_value!(metrics, "nodescope_tcp_handshake_seconds_sum", Some(0.0015));
    Ok(())
}

#[test]
fn resets_and_silence() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    let mut reset = as_event(pod_to_pod(), Event::Update);
    let mut silent = masqueraded();
    silent.reply = crate::flow::Traffic::default();
    for (flow, state) in [
        (&mut reset, TcpState::Reset),
        (&mut silent, TcpState::SynSent),
    ] {
        let Some(tcp) = &mut flow.tcp else {
            panic!("no TCP")
        };
        tcp.state = state;
    }
    metrics.observe([&reset, &as_event(reset.clone(), Event::Close), &silent]);
    assert_value!(metrics, "nodescope_tcp_resets_total", Some(1.0));
    assert_value!(metrics, "nodescope_tcp_unanswered_total", Some(1.0));
    Ok(())
}

#[test]
fn translations_and_services_once_a_connection() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    for event in [Event::Open, Event::Update, Event::Close] {
        let flows = [masqueraded(), through_service(), ping()];
        metrics.observe(flows.map(|flow| as_event(flow, event)).iter());
    }
    let nat = |kind, cause, expected| {
        let labels = format!("cause=\"{cause}\",expected=\"{expected}\",kind=\"{kind}\"");
        format!("nodescope_nat_connections_total{{{labels}}}")
    };
    assert_value!(metrics, &nat("snat", "masquerade", "translated"), Some(1.0));
    assert_value!(metrics, &nat("dnat", "service", "kept"), Some(1.0));
    assert_value!(metrics, &nat("none", "none", "kept"), Some(1.0));
    let series = "nodescope_service_connections_total\
                  {client_ip=\"kept\",namespace=\"shop\",policy=\"\",service=\"db\"}";
    assert_value!(metrics, series, Some(1.0));
    Ok(())
}

#[test]
fn a_service_that_is_named_late_is_counted_once() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    let mut nameless = through_service();
    nameless.destination_service = None;
    metrics.observe([&as_event(nameless, Event::Open)]);
    for event in [Event::Update, Event::Update, Event::Close] {
        metrics.observe([&as_event(through_service(), event)]);
    }
    let series = "nodescope_service_connections_total\
                  {client_ip=\"kept\",namespace=\"shop\",policy=\"\",service=\"db\"}";
    assert_value!(metrics, series, Some(1.0));
    Ok(())
}

#[test]
fn dns_questions_by_their_outcome() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    let answered = |asked, count| Answered {
        code: "NOERROR",
        asked,
        count,
    };
    for latency in [Some(Duration::from_millis(2)), None] {
        metrics.observe_dns(&Outcome {
            answered: vec![answered("AAAA", 2), answered("", 1)],
            unread: 1,
            unanswered: 0,
            latency,
        });
    }
    let series =
        |asked, code| format!("nodescope_dns_queries_total{{qtype=\"{asked}\",rcode=\"{code}\"}}");
    assert_value!(metrics, &series("AAAA", "NOERROR"), Some(4.0));
    assert_value!(metrics, &series("", "NOERROR"), Some(2.0));
    assert_value!(metrics, &series("", "unread"), Some(2.0));
    assert_value!(metrics, &series("", "none"), None);
    assert_value!(metrics, "nodescope_dns_duration_seconds_count", Some(1.0));
    Ok(())
}

#[test]
fn packets_that_died_are_counted_as_such_alone() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    let mut flow = as_event(pod_to_pod(), Event::Drop);
    flow.drop = Some(Drop {
        reason: "NETFILTER_DROP".into(),
        interface: "cbr0".into(),
        in_pod: false,
        direction: Direction::Ingress,
        function: None,
    });
    let packets = flow.forward.delta.packets as f64;
    metrics.observe([&flow, &flow]);
    let text = String::from_utf8(metrics.text(Format::Text)?)?;
    let drops: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("nodescope_drops_total{"))
        .collect();
    assert_eq!(drops.len(), 1, "{drops:?}");
    assert!(drops[0].contains("direction=\"ingress\"") && drops[0].contains("NETFILTER_DROP"));
    assert!(
        drops[0].ends_with(&format!(" {}", 2.0 * packets)),
        "{drops:?}"
    );
    assert!(!text.contains("nodescope_flow_packets_total{"));
    Ok(())
}

#[test]
fn what_has_no_room_goes_to_other_and_is_counted() -> Tested {
    let metrics = Metrics::new(&Options {
        max_series: 1,
        ..Options::default()
    })?;
    metrics.observe([&ping(), &pod_to_pod()]);
    let text = String::from_utf8(metrics.text(Format::Text)?)?;
    let series: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("nodescope_flow_packets_total{"))
        .collect();
    assert_eq!(series.len(), 2, "{series:?}");
    assert!(
        series
            .iter()
            .any(|line| line.contains("class=\"other\",") && line.ends_with(" 3"))
    );
    let limited = "nodescope_metric_series_limited_total{metric=\"nodescope_flow_packets_total\"}";
    assert_value!(metrics, limited, Some(3.0));
    Ok(())
}

#[test]
fn the_agent_about_itself() -> Tested {
    let metrics = Metrics::new(&Options::default())?;
    let own = metrics.own();
    own.set_build_info("0.1.0", "6.18");
    own.set_attached_hooks([("eth0", Role::Uplink, 2)]);
    own.set_attached_hooks([("veth0", Role::Pod, 1)]);
    for packets in [5, 8, 8, 2] {
        own.set_hook(
            "veth0",
            Direction::Ingress,
            Counts {
                packets,
                bytes: 60 * packets,
            },
            0,
        );
    }
    own.set_hook_unattributed(
        "veth0",
        Direction::Egress,
        "arp",
        Counts {
            packets: 1,
            bytes: 42,
        },
    );
    own.set_flow_table(3, 100);
    own.set_events_lost("ringbuf", 7);
    own.observe_drain(Duration::from_millis(2));
    own.set_kube_objects("Pod", 9);
    own.set_kube_watch_errors("Pod", 1);
    let hook = "nodescope_hook_packets_total{direction=\"ingress\",interface=\"veth0\"}";
    for (series, wanted) in [
        (
            "nodescope_build_info{kernel=\"6.18\",version=\"0.1.0\"}",
            Some(1.0),
        ),
        (
            "nodescope_attached_hooks{interface=\"eth0\",role=\"uplink\"}",
            None,
        ),
        (
            "nodescope_attached_hooks{interface=\"veth0\",role=\"pod\"}",
            Some(1.0),
        ),
        // Up to 8, and a look too early is none back.
        (hook, Some(8.0)),
        (
            "nodescope_hook_unattributed_bytes_total\
             {direction=\"egress\",interface=\"veth0\",reason=\"arp\"}",
            Some(42.0),
        ),
        ("nodescope_flow_table_entries", Some(3.0)),
        ("nodescope_flow_table_limit", Some(100.0)),
        ("nodescope_events_lost_total{kind=\"ringbuf\"}", Some(7.0)),
        ("nodescope_drain_duration_seconds_count", Some(1.0)),
        ("nodescope_kube_objects{kind=\"Pod\"}", Some(9.0)),
        ("nodescope_kube_watch_errors_total{kind=\"Pod\"}", Some(1.0)),
    ] {
        assert_value!(metrics, series, wanted);
    }
    own.forget_interface("veth0");
    assert_value!(metrics, hook, None);
    let (packets, bytes) = (3, 180);
    own.set_hook("veth0", Direction::Ingress, Counts { packets, bytes }, 0);
    assert_value!(metrics, hook, Some(3.0));
    Ok(())
}

#[tokio::test]
async fn served_over_http() -> Tested {
    let metrics = Arc::new(Metrics::new(&Options::default())?);
    metrics.own().set_flow_table(1, 2);
    let listener = bind("127.0.0.1:0".parse()?).await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        // A sender that is gone stops the server too.
        let _ = stopped.await;
    };
    let ready = || Err("no interface yet".to_owned());
    let server = tokio::spawn(serve(listener, metrics, ready, shutdown));
    for (path, status, text) in [
        ("/metrics", "200 OK", "nodescope_flow_table_limit 2"),
        ("/healthz", "200 OK", "ok"),
        (
            "/readyz",
            "503 Service Unavailable",
            "not ready: no interface yet",
        ),
        ("/nothing", "404 Not Found", ""),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer}"
        );
        assert!(answer.contains(text), "{answer}");
    }
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Accept: application/openmetrics-text\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert!(
        answer.contains("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{answer}"
    );
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    let taken = bind(address).await;
    assert!(taken.is_err_and(|error| error.to_string().contains("--listen-metrics")));
    drop(stop);
    server.await??;
    Ok(())
}
