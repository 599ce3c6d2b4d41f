//! The fault switches, as a client meets them.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use nodescope_tests::apiserver::{ApiServer, Fault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TOKEN, client, client_with, cluster, code, soon};

#[tokio::test(flavor = "multi_thread")]
async fn errors_garbage_and_silence() {
    let server = cluster();
    let pods: Api<Pod> = Api::all(client(&server).await);
    let list = || async { pods.list(&ListParams::default()).await };
    // The client tries some codes again by itself; these it does not.
    for wanted in [500, 403] {
        server.faults().set(Fault::Code(wanted));
        assert_eq!(code(list().await), wanted);
    }
    server.faults().set(Fault::Garbage);
    assert!(matches!(list().await, Err(kube::Error::SerdeError(_))));
    server.faults().set(Fault::Hang);
    let hanging = tokio::spawn({
        let pods = pods.clone();
        async move { pods.list(&ListParams::default()).await }
    });
    soon(
        "the request",
        server
            .counters()
            .wait_until(|c| c.requests("list", "pods") == 4),
    )
    .await;
    assert!(!hanging.is_finished());
    server.faults().clear();
    let answered = soon("the answer", hanging).await.unwrap();
    assert_eq!(
        answered.unwrap().items.len(),
        3,
        "a request that hung is answered in the end"
    );
}

async fn refuses_and_takes_again(server: &ApiServer) {
    let address = server.address();
    let mut open = TcpStream::connect(address).await.unwrap();
    server.refuse_connections(true).unwrap();
    let closed = soon("the open connection's end", open.read(&mut [0])).await;
    assert!(matches!(closed, Ok(0) | Err(_)));
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    server.refuse_connections(true).unwrap();
    server.refuse_connections(false).unwrap();
    let pods: Api<Pod> = Api::all(client(server).await);
    soon("an answer", pods.list(&ListParams::default()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_refused_and_taken_again() {
    let server = cluster();
    for _ in 0..3 {
        refuses_and_takes_again(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_made_elsewhere_is_served() {
    // A port that was asked for by number stays bound while connections are refused.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let socket = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], free.port()))).unwrap();
    let server = ApiServer::start_on(socket, TOKEN).unwrap();
    refuses_and_takes_again(&server).await;
    drop(server);
    let gone = async { while TcpStream::connect(free).await.is_ok() {} };
    soon("the server's end", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_do_no_harm() {
    let server = cluster();
    for bytes in [
        &b"\x16\x03\x01\xff\xff rubbish"[..],
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Whether an answer or a reset comes back is the parser's choice; it has to end.
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    }
    let plain = client_with(&server.kubeconfig(&server.plain_url())).await;
    let bad = http_post(&server, "/api/v1/namespaces/default/pods", "{\"kind\":").await;
    assert!(
        bad.starts_with("HTTP/1.1 400") && bad.contains("unrecognized"),
        "{bad}"
    );
    let pods: Api<Pod> = Api::all(plain);
    assert_eq!(
        pods.list(&ListParams::default()).await.unwrap().items.len(),
        3
    );
}

async fn http_post(server: &ApiServer, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_wrongly_is_told() {
    let taken = cluster();
    let error = |address: SocketAddr, token: &str| {
        ApiServer::start(address, token).unwrap_err().to_string()
    };
    assert!(error(taken.address(), TOKEN).contains(&taken.address().to_string()));
    assert!(error("127.0.0.1:0".parse().unwrap(), "").contains("token"));
    assert!(error("127.0.0.1:0".parse().unwrap(), "a\nb").contains("token"));
    let nameless = vec![serde_json::json!({"apiVersion": "v1", "kind": "Pod"})];
    assert!(
        taken
            .load(nameless)
            .unwrap_err()
            .to_string()
            .starts_with("object 1")
    );
    let served = nodescope_tests::apiserver::serve(taken.address(), TOKEN, Vec::new());
    let served = tokio::time::timeout(Duration::from_secs(5), served).await;
    assert!(served.unwrap().is_err());
}
