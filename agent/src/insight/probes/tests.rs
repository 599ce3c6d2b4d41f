//! Probes from heads and flows to reports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use nodescope_ebpf::{HopKey, mapped, packet::tcp_flag};

use super::*;
use crate::cluster::Overrides;
use crate::flow::{
    Counts, Identity, Pod, ProbeKind, ProbeResult, ProbeStatus, Protocol, Tcp, TcpState, Traffic,
    Tuple,
};
use crate::sink::fixture;

const SECOND: u64 = 1_000_000_000;
const NODE: [u8; 4] = [10, 224, 0, 4];
const POD: [u8; 4] = [10, 244, 0, 15];
const LB: [u8; 4] = [168, 63, 129, 16];

fn ip(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(octets))
}

fn local() -> Local {
    Local::with_addresses("node-0", [ip(NODE)])
}

fn inventory() -> Inventory {
    Inventory::new(Overrides {
        probe_sources: vec![ip(LB)],
        ..Overrides::default()
    })
}

fn now(seconds: u64) -> Moment {
    Moment {
        // A clock that runs backwards changes nothing.
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(10_000 - seconds),
        monotonic_ns: seconds * SECOND,
    }
}

/// A connection that began at a second, over when `event` says so.
fn flow(from: [u8; 4], port: u16, to: ([u8; 4], u16), second: u64, event: Event) -> Flow {
    let tuple = Tuple {
        source: SocketAddr::new(ip(from), port),
        destination: SocketAddr::new(ip(to.0), to.1),
        protocol: Protocol::TCP,
    };
    let traffic = Counts {
        packets: 5,
        bytes: 600,
    };
    let mut flow = fixture::pod_to_pod();
    flow.event = event;
    flow.connection = u64::from(port);
    flow.started_ns = second * SECOND;
    flow.tuple = tuple;
    flow.nat.original = tuple;
    flow.nat.translated = tuple;
    flow.class = Class::LbProbe;
    flow.source = Identity::World;
    flow.destination = Identity::Unknown;
    flow.forward = Traffic {
        delta: traffic,
        total: traffic,
    };
    flow.tcp = Some(Tcp {
        state: TcpState::Closed,
        handshake_rtt: Some(Duration::from_millis(1)),
        forward_flags: tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN,
        reply_flags: tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN,
        ..Tcp::default()
    });
    flow
}

/// What one end of a flow said, some milliseconds after its start.
fn said(flow: &Flow, by_client: bool, after_ms: u64, bytes: &[u8]) -> Head {
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    let (client, server) = (flow.tuple.source, flow.tuple.destination);
    Head {
        time_ns: flow.started_ns + after_ms * 1_000_000,
        key: HopKey {
            a: mapped(octets(client)),
            b: mapped(octets(server)),
            a_port: client.port(),
            b_port: server.port(),
            protocol: 6,
            ..HopKey::default()
        },
        from_a: by_client,
        sequence: 1,
        length: u32::try_from(bytes.len()).unwrap_or(0),
        bytes: bytes.to_vec(),
    }
}

fn pod(probes: Vec<ProbeSpec>) -> Identity {
    Identity::Pod(Arc::new(Pod {
        name: ObjectName {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        },
        node: "node-0".into(),
        ips: vec![ip(POD)],
        probes,
        ..Pod::default()
    }))
}

fn spec(kind: ProbeKind, handler: ProbeHandler) -> ProbeSpec {
    ProbeSpec {
        kind,
        container: "main".to_owned(),
        port: 8080,
        handler,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        own_agent: false,
        started: true,
    }
}

#[test]
fn an_answer_that_comes_before_the_record_and_one_after() {
    let probes = Probes::default();
    let (inventory, local) = (inventory(), local());
    for (at, port) in [(100, 1), (105, 2), (110, 3), (115, 4)] {
        let mut open = flow(LB, port, (NODE, 10_256), at, Event::Open);
        open.tcp = Some(Tcp {
            state: TcpState::Established,
            forward_flags: tcp_flag::SYN | tcp_flag::ACK,
            reply_flags: tcp_flag::SYN | tcp_flag::ACK,
            ..Tcp::default()
        });
        probes.annotate(&mut open, &inventory, &local, now(at));
        assert_eq!(open.probe.map(|probe| probe.result), Some(None));
        let mut close = flow(LB, port, (NODE, 10_256), at, Event::Close);
        probes.heads(&[
            said(&close, true, 1, b"GET /healthz HTTP/1.1\r\n\r\n"),
            said(
                &close,
                false,
                3,
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            ),
        ]);
        probes.annotate(&mut close, &inventory, &local, now(at + 1));
        let Some(probe) = close.probe else {
            panic!("no probe");
        };
        assert_eq!(probe.result, Some(ProbeResult::Success));
        assert_eq!(probe.status, Some(ProbeStatus::Http(200)));
        assert_eq!(probe.latency, Some(Duration::from_millis(3)));
        assert_eq!(probe.path.as_deref(), Some("/healthz"));
    }
    let report = probes.report(now(120));
    assert_eq!(report.len(), 1);
    assert_eq!(report[0].interval, Some(Duration::from_secs(5)));
    assert_eq!(report[0].results, [4, 0, 0, 0]);
    assert_eq!(report[0].presence, Presence::Arriving);
    assert_eq!(probes.report(now(140))[0].presence, Presence::Absent);
    assert_eq!(probes.ended().len(), 4);
    assert_eq!(probes.ended(), []);
}

#[test]
fn a_probe_without_answer_times_out_before_its_flow_ends() {
    let probes = Probes::default();
    let mut open = flow(LB, 1, (NODE, 30_000), 100, Event::Open);
    open.tcp = Some(Tcp {
        state: TcpState::SynSent,
        forward_flags: tcp_flag::SYN,
        ..Tcp::default()
    });
    probes.annotate(&mut open, &inventory(), &local(), now(100));
    probes.tick(None, now(104));
    assert_eq!(probes.ended(), []);
    probes.tick(None, now(106));
    let ended = probes.ended();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].result, ProbeResult::Timeout);
    assert_eq!(ended[0].target, "port-30000");
    // The flow's last record, much later, counts nothing again.
    let mut close = open.clone();
    close.event = Event::Close;
    probes.annotate(&mut close, &inventory(), &local(), now(700));
    assert_eq!(
        close.probe.and_then(|probe| probe.result),
        Some(ProbeResult::Timeout)
    );
    assert_eq!(probes.ended(), []);
}

#[test]
fn equal_probes_take_turns() {
    let probes = Probes::default();
    let live = ProbeHandler::Http("/ok".to_owned());
    let mut often = spec(ProbeKind::Readiness, live.clone());
    often.period = Duration::from_secs(5);
    let specs = vec![spec(ProbeKind::Liveness, live), often];
    let mut kinds = Vec::new();
    // Readiness every 5 s, liveness every 10 s.
    for (port, at) in [(1, 100), (2, 100), (3, 105), (4, 110), (5, 110), (6, 115)] {
        let mut close = flow(NODE, port, (POD, 8080), at, Event::Close);
        close.destination = pod(specs.clone());
        close.class = Class::NodeToPod;
        probes.heads(&[
            said(
                &close,
                true,
                1,
                b"GET /ok HTTP/1.1\r\nUser-Agent: kube-probe/1.32\r\n\r\n",
            ),
            said(
                &close,
                false,
                2,
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            ),
        ]);
        probes.annotate(&mut close, &inventory(), &local(), now(at + 1));
        assert_eq!(close.class, Class::KubeletProbe);
        kinds.extend(close.probe.map(|probe| probe.kind));
    }
    let count = |kind| kinds.iter().filter(|one| **one == kind).count();
    assert_eq!(
        (count(ProbeKind::Liveness), count(ProbeKind::Readiness)),
        (2, 4),
        "{kinds:?}"
    );
}

#[test]
fn what_the_spec_does_not_ask_for_is_user_traffic() {
    let probes = Probes::default();
    let specs = vec![spec(
        ProbeKind::Liveness,
        ProbeHandler::Http("/ok".to_owned()),
    )];
    for (port, request) in [
        (1, &b"GET /ok HTTP/1.1\r\nUser-Agent: curl/8\r\n\r\n"[..]),
        (
            2,
            b"GET /no HTTP/1.1\r\nUser-Agent: kube-probe/1.32\r\n\r\n",
        ),
        (3, b"\x16\x03\x01\x00"),
    ] {
        let mut close = flow(NODE, port, (POD, 8080), 100, Event::Close);
        close.destination = pod(specs.clone());
        close.class = Class::NodeToPod;
        probes.heads(&[said(&close, true, 1, request)]);
        probes.annotate(&mut close, &inventory(), &local(), now(101));
        assert_eq!((close.class, close.probe), (Class::NodeToPod, None));
    }
    // A connection over which nothing was asked is no HTTP probe.
    let mut silent = flow(NODE, 4, (POD, 8080), 100, Event::Close);
    silent.destination = pod(specs);
    silent.class = Class::NodeToPod;
    silent.forward.total = Counts {
        packets: 4,
        bytes: 4 * 66 + 8,
    };
    probes.annotate(&mut silent, &inventory(), &local(), now(101));
    assert_eq!((silent.class, silent.probe), (Class::NodeToPod, None));
    assert_eq!(probes.ended(), []);
}

#[test]
fn before_the_start_only_the_startup_probe_is_due() {
    let probes = Probes::default();
    let same = ProbeHandler::Tcp;
    let mut kinds = Vec::new();
    for (port, started) in [(1, false), (2, true)] {
        let specs = [ProbeKind::Startup, ProbeKind::Liveness].map(|kind| ProbeSpec {
            started,
            ..spec(kind, same.clone())
        });
        let mut close = flow(NODE, port, (POD, 8080), 100 + u64::from(port), Event::Close);
        close.destination = pod(specs.to_vec());
        probes.annotate(&mut close, &inventory(), &local(), now(103));
        kinds.extend(close.probe.map(|probe| (probe.kind, probe.status)));
    }
    let connected = Some(ProbeStatus::Connected);
    assert_eq!(
        kinds,
        [
            (ProbeKind::Startup, connected),
            (ProbeKind::Liveness, connected)
        ]
    );
}

#[test]
fn payload_is_wanted_of_probes_only() {
    let ends = ends(&inventory(), &local(), &[ip(LB)]);
    let all: Vec<_> = ends.into_iter().collect();
    assert_eq!(
        all,
        [
            ((ip(NODE), 0), nodescope_ebpf::ProbeEnd::Node),
            ((ip(NODE), 10_256), nodescope_ebpf::ProbeEnd::Port),
            ((ip(LB), 0), nodescope_ebpf::ProbeEnd::Source),
        ]
    );
}
