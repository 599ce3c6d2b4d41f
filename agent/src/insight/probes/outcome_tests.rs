//! How probes end.

use super::*;
use crate::insight::probes::answer::HttpAnswer;

const SYN: u8 = tcp_flag::SYN;
const ACK: u8 = tcp_flag::ACK;
const FIN: u8 = tcp_flag::FIN;
const RST: u8 = tcp_flag::RST;

fn tcp(state: TcpState, forward_flags: u8, reply_flags: u8) -> Tcp {
    Tcp {
        state,
        handshake_rtt: Some(Duration::from_millis(1)),
        forward_flags,
        reply_flags,
        ..Tcp::default()
    }
}

struct Case {
    kind: ProbeKind,
    handler: Option<ProbeHandler>,
    tcp: Tcp,
    closed: bool,
    request: Request,
    answer: Answer,
    age_ms: u64,
}

fn case(tcp: Tcp) -> Case {
    Case {
        kind: ProbeKind::Lb,
        handler: None,
        tcp,
        closed: false,
        request: Request::None,
        answer: Answer::None,
        age_ms: 10,
    }
}

fn said(case: &Case) -> Option<(ProbeResult, ProbeStatus, bool)> {
    let seen = Seen {
        kind: case.kind,
        handler: case.handler.as_ref(),
        tcp: case.tcp,
        closed: case.closed,
        request: &case.request,
        answer: &case.answer,
        answered_after: Some(Duration::from_millis(5)),
        age: Duration::from_millis(case.age_ms),
        patience: Duration::from_secs(1),
    };
    outcome(&seen).map(|outcome| (outcome.result, outcome.status, outcome.last))
}

fn get() -> Request {
    Request::Http {
        path: "/".to_owned(),
        kube_probe: false,
    }
}

fn status(status: u16, complete: bool) -> Answer {
    Answer::Http(HttpAnswer {
        status,
        complete,
        ..HttpAnswer::default()
    })
}

#[test]
fn connections_without_words() {
    let established = tcp(TcpState::Established, SYN | ACK, SYN | ACK);
    assert_eq!(said(&case(established)), None, "it may still ask");
    let done = tcp(TcpState::Closed, SYN | ACK | FIN, SYN | ACK | FIN);
    let success = Some((ProbeResult::Success, ProbeStatus::Connected, true));
    assert_eq!(said(&case(done)), success);
    let mut kubelet = case(established);
    kubelet.kind = ProbeKind::Liveness;
    kubelet.handler = Some(ProbeHandler::Tcp);
    assert_eq!(said(&kubelet), success);
    let refused = tcp(TcpState::Reset, SYN, RST | ACK);
    assert_eq!(
        said(&case(refused)),
        Some((ProbeResult::Failure, ProbeStatus::Refused, true))
    );
    let silent = tcp(TcpState::SynSent, SYN, 0);
    assert_eq!(said(&case(silent)), None);
    let mut late = case(silent);
    late.age_ms = 1001;
    assert_eq!(
        said(&late),
        Some((ProbeResult::Timeout, ProbeStatus::NoAnswer, true))
    );
}

#[test]
fn http_answers() {
    let state = tcp(TcpState::Established, SYN | ACK, SYN | ACK);
    for (kind, code, result) in [
        (ProbeKind::Lb, 200, ProbeResult::Success),
        (ProbeKind::Lb, 204, ProbeResult::Failure),
        (ProbeKind::Lb, 503, ProbeResult::Failure),
        (ProbeKind::Readiness, 302, ProbeResult::Success),
        (ProbeKind::Readiness, 404, ProbeResult::Failure),
    ] {
        let mut one = case(state);
        one.kind = kind;
        one.request = get();
        one.answer = status(code, true);
        assert_eq!(said(&one), Some((result, ProbeStatus::Http(code), true)));
        // The body is still to come, but not for ever.
        one.answer = status(code, false);
        assert_eq!(said(&one), Some((result, ProbeStatus::Http(code), false)));
        one.age_ms = 300;
        assert_eq!(said(&one), Some((result, ProbeStatus::Http(code), true)));
    }
}

#[test]
fn questions_without_answer() {
    let mut one = case(tcp(TcpState::Established, SYN | ACK, SYN | ACK));
    one.request = get();
    assert_eq!(said(&one), None);
    one.closed = true;
    let timeout = Some((ProbeResult::Timeout, ProbeStatus::NoAnswer, true));
    assert_eq!(said(&one), timeout);
    one.closed = false;
    one.tcp.forward_flags |= FIN;
    assert_eq!(said(&one), timeout);
    one.tcp.reply_flags |= RST;
    one.tcp.state = TcpState::Reset;
    assert_eq!(
        said(&one),
        Some((ProbeResult::Failure, ProbeStatus::Reset, true))
    );
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let unknown = Some((ProbeResult::Unknown, ProbeStatus::Unreadable, true));
    let mut one = case(tcp(TcpState::Established, SYN | ACK, SYN | ACK));
    one.request = Request::Tls;
    one.answer = Answer::Unreadable;
    assert_eq!(said(&one), None);
    one.closed = true;
    assert_eq!(said(&one), unknown);
    // Asked, but the words were lost on the way to the agent.
    one.handler = Some(ProbeHandler::Http("/".to_owned()));
    one.request = Request::None;
    one.answer = Answer::None;
    assert_eq!(said(&one), unknown);
}

#[test]
fn grpc_answers() {
    let mut one = case(tcp(TcpState::Established, SYN | ACK, SYN | ACK));
    one.request = Request::Http2;
    one.answer = Answer::Grpc("SERVING");
    assert_eq!(said(&one).map(|said| said.0), Some(ProbeResult::Success));
    one.answer = Answer::Grpc("NOT_SERVING");
    assert_eq!(said(&one).map(|said| said.0), Some(ProbeResult::Failure));
}

/// The hooks came between the far end's SYN and its FIN: its answer may have passed before them.
#[test]
fn an_answer_that_may_have_been_missed() {
    let mut one = case(tcp(TcpState::Closed, SYN | ACK | FIN, ACK | FIN));
    one.request = get();
    one.closed = true;
    assert_eq!(
        said(&one),
        Some((ProbeResult::Unknown, ProbeStatus::Unreadable, true))
    );
}
