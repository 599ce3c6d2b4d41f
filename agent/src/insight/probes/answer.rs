//! What a prober asked and what it was answered, from the first bytes of both.

use serde::Deserialize;

use super::exchange::{STREAM, Stream};
use super::grpc;

/// Header lines that a head can hold; more is no answer of a health check.
const HEADERS: usize = 48;

/// How kubelets name themselves in `User-Agent` (k8s.io/kubernetes pkg/probe/http).
const KUBE_PROBE: &str = "kube-probe/";

/// What kube-proxy says its node's weight is (KEP-4770, since Kubernetes 1.31).
const WEIGHT: &str = "X-Load-Balancing-Endpoint-Weight";

/// What the client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing yet.
    None,
    /// An HTTP/1 request.
    Http {
        /// Its path with the query.
        path: String,
        /// Whether it says that it comes from a kubelet.
        kube_probe: bool,
    },
    /// The HTTP/2 preface without TLS: gRPC.
    Http2,
    /// A TLS handshake record.
    Tls,
    /// Anything else.
    Other,
}

/// What the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    None,
    /// An HTTP/1 answer.
    Http(HttpAnswer),
    /// The `ServingStatus` of a gRPC health check.
    Grpc(&'static str),
    /// Bytes that say nothing.
    Unreadable,
}

/// The head of an HTTP/1 answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// The body, where it is a health answer of kube-proxy.
    pub health: Option<Health>,
    /// The weight header.
    pub weight: Option<u64>,
    /// Nothing more is to come that could be read.
    pub complete: bool,
}

/// `/healthz` of a service's health-check node port. Older kube-proxies say no
/// `serviceProxyHealthy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Ready endpoints on the node.
    pub local_endpoints: u64,
    /// Whether kube-proxy itself is well.
    #[serde(default)]
    pub service_proxy_healthy: Option<bool>,
}

/// Reads the request.
pub fn request(stream: &Stream) -> Request {
    let bytes = stream.bytes.as_slice();
    if stream.is_empty() {
        return Request::None;
    }
    if bytes.starts_with(grpc::PREFACE) {
        return Request::Http2;
    }
    // A TLS record of type handshake (RFC 8446 5.1).
    if bytes.starts_with(&[22, 3]) {
        return Request::Tls;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(bytes).is_err() {
        return Request::Other;
    }
    let Some(path) = request.path else {
        return Request::Other;
    };
    let kube_probe =
        header(request.headers, "User-Agent").is_some_and(|agent| agent.starts_with(KUBE_PROBE));
    Request::Http {
        path: path.to_owned(),
        kube_probe,
    }
}

/// Reads the answer.
pub fn answer(stream: &Stream) -> Answer {
    if stream.is_empty() {
        return Answer::None;
    }
    let bytes = stream.bytes.as_slice();
    if !bytes.starts_with(b"HTTP/") {
        return match grpc::health(bytes) {
            Some(status) => Answer::Grpc(status),
            None => Answer::Unreadable,
        };
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(parsed) = response.parse(bytes) else {
        return Answer::Unreadable;
    };
    let Some(status) = response.code else {
        return Answer::Unreadable;
    };
    let mut answer = HttpAnswer {
        status,
        complete: stream.truncated,
        ..HttpAnswer::default()
    };
    if let httparse::Status::Complete(end) = parsed {
        let body = &bytes[end..];
        let length = header(response.headers, "Content-Length")
            .and_then(|text| text.trim().parse::<usize>().ok());
        answer.weight = header(response.headers, WEIGHT).and_then(|text| text.trim().parse().ok());
        let whole = length.is_some_and(|length| length <= body.len());
        answer.complete |= whole || length.is_some_and(|length| length > STREAM);
        // A body of which only a part came is no JSON.
        answer.health = serde_json::from_slice(body).ok();
    }
    Answer::Http(answer)
}

fn header<'a>(headers: &'a [httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let found = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8], truncated: bool) -> Stream {
        Stream {
            bytes: bytes.to_vec(),
            truncated,
            first_ns: 1,
            last_ns: 1,
            ..Stream::default()
        }
    }

    fn http(body: &str, truncated: bool) -> HttpAnswer {
        let text = format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
             X-Load-Balancing-Endpoint-Weight: 3\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        match answer(&said(text.as_bytes(), truncated)) {
            Answer::Http(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_forms_of_healthz() {
        let old = r#"{"service": {"namespace": "a", "name": "b"}, "localEndpoints": 0}"#;
        let answer = http(old, false);
        assert_eq!((answer.status, answer.weight), (503, Some(3)));
        assert_eq!(
            answer.health,
            Some(Health {
                local_endpoints: 0,
                service_proxy_healthy: None
            })
        );
        assert!(answer.complete);
        let new = r#"{"service": {"namespace": "a", "name": "b"},
            "localEndpoints": 2, "serviceProxyHealthy": true}"#;
        assert_eq!(
            http(new, false).health,
            Some(Health {
                local_endpoints: 2,
                service_proxy_healthy: Some(true)
            })
        );
    }

    #[test]
    fn bodies_that_say_nothing() {
        for body in [
            "ok",
            "{\"localEndpoints\": -1}",
            "{\"localEndpoints\": \"1\"}",
            "[",
            "",
        ] {
            assert_eq!(http(body, false).health, None, "{body}");
        }
        let cut = http("{\"localEndpoints\": 1, \"x\": \"aaaa", true);
        assert_eq!((cut.health, cut.complete), (None, true));
    }

    #[test]
    fn bytes_that_are_no_answer() {
        for bytes in [&b"\x16\x03\x01"[..], b"HTTP/9 x", b"hello", b"\0"] {
            assert_eq!(answer(&said(bytes, false)), Answer::Unreadable);
        }
        assert_eq!(answer(&Stream::default()), Answer::None);
    }

    #[test]
    fn requests() {
        let kubelet = b"GET /live?x=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.32\r\n\r\n";
        assert_eq!(
            request(&said(kubelet, false)),
            Request::Http {
                path: "/live?x=1".to_owned(),
                kube_probe: true
            }
        );
        let curl = b"GET /live HTTP/1.1\r\nUser-Agent: curl/8\r\n";
        assert_eq!(
            request(&said(curl, false)),
            Request::Http {
                path: "/live".to_owned(),
                kube_probe: false
            }
        );
        assert_eq!(request(&said(grpc::PREFACE, false)), Request::Http2);
        assert_eq!(request(&said(b"\x16\x03\x01\0", false)), Request::Tls);
        assert_eq!(request(&said(b"\0\0", false)), Request::Other);
        assert_eq!(request(&Stream::default()), Request::None);
    }
}
