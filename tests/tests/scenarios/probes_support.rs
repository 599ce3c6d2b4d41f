//! What the probe scenarios share: servers whose answers the test chooses, probers on real
//! sockets, and what the agent says of both.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Agent, Lab, Netns};
use serde_json::{Value, json};

/// Where Azure's load balancers probe from.
pub const PROBER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// How long a prober of the tests waits for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// A server in a namespace that answers every request with the bytes it is told; none: never.
pub struct Answering {
    address: SocketAddr,
    netns: Netns,
    answer: Arc<Mutex<Option<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    /// Listens on a port of all addresses.
    pub fn start(netns: &Netns, port: u16, answer: Option<Vec<u8>>) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = netns.enter(|| TcpListener::bind(address))??;
        let answer = Arc::new(Mutex::new(answer));
        let stop = Arc::new(AtomicBool::new(false));
        let (told, over) = (Arc::clone(&answer), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let answer = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Ok(stream) = stream {
                    // A prober that hangs up is its own witness.
                    let _ = serve(stream, answer);
                }
            }
        });
        Ok(Self {
            address,
            netns: netns.clone(),
            answer,
            stop,
            thread: Some(thread),
        })
    }

    /// Changes what it answers from the next connection on.
    pub fn set(&self, answer: Option<Vec<u8>>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.address.port()));
        // Wakes the thread; one that cannot be woken ends with the process.
        if matches!(self.netns.enter(|| TcpStream::connect(to)), Ok(Ok(_)))
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, answer: Option<Vec<u8>>) -> Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    loop {
        let count = stream.read(&mut part)?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&part[..count]);
        let whole = request.windows(4).any(|end| end == b"\r\n\r\n");
        if let (true, Some(answer)) = (whole, &answer) {
            stream.write_all(answer)?;
            return Ok(());
        }
    }
}

/// An HTTP answer of kube-proxy's form.
pub fn http(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\
         X-Content-Type-Options: nosniff\r\nX-Load-Balancing-Endpoint-Weight: 1\r\n\
         Date: Mon, 05 Jan 2026 08:00:00 GMT\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// `/healthz` of a health-check node port, in the form of kube-proxy since 1.28 or before.
pub fn healthz(service: &str, local: u64, new_form: bool) -> Vec<u8> {
    let mut body = json!({
        "service": {"namespace": "default", "name": service},
        "localEndpoints": local,
    });
    if new_form {
        body["serviceProxyHealthy"] = json!(true);
    }
    let status = if local > 0 {
        "200 OK"
    } else {
        "503 Service Unavailable"
    };
    http(status, &format!("{body:#}"))
}

/// What a prober itself saw.
#[derive(Clone, Debug)]
pub struct Probed {
    /// When it began.
    pub at: Instant,
    /// Bytes of the answer, or the error.
    pub answer: Result<Vec<u8>, std::io::ErrorKind>,
    /// How long it took.
    pub took: Duration,
}

/// Connects from a namespace, optionally from one of its addresses, sends `request` and reads
/// the answer to its end.
pub fn probe(
    netns: &Netns,
    from: Option<Ipv4Addr>,
    to: SocketAddr,
    request: &str,
) -> Result<Probed> {
    let at = Instant::now();
    let answer = netns.enter(|| talk(from, to, request))?;
    Ok(Probed {
        at,
        answer: answer.map_err(|error| error.kind()),
        took: at.elapsed(),
    })
}

fn talk(from: Option<Ipv4Addr>, to: SocketAddr, request: &str) -> std::io::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        if let Some(from) = from {
            socket.bind(SocketAddr::from((from, 0)))?;
        }
        let stream = tokio::time::timeout(TIMEOUT, socket.connect(to))
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)??;
        stream.into_std()
    })?;
    let mut stream = stream;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = Vec::new();
    if !request.is_empty() {
        stream.write_all(request.as_bytes())?;
        stream.read_to_end(&mut answer)?;
    }
    Ok(answer)
}

/// A load balancer's HTTP probe of a node's port.
pub fn lb_get(lab: &Lab, port: u16, path: &str) -> Result<Probed> {
    let node = SocketAddr::from((lab.topology().nodes[0].ip, port));
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {node}\r\nUser-Agent: Load Balancer Agent\r\n\r\n");
    probe(&lab.fabric(), Some(PROBER), node, &request)
}

/// A load balancer's TCP probe of a node's port.
pub fn lb_tcp(lab: &Lab, port: u16) -> Result<Probed> {
    let node = SocketAddr::from((lab.topology().nodes[0].ip, port));
    probe(&lab.fabric(), Some(PROBER), node, "")
}

/// A request as the kubelet writes it.
pub fn kubelet_request(path: &str, agent: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: pod\r\nUser-Agent: {agent}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
}

/// Tells the API of a LoadBalancer service with policy `Local` and its endpoints: ready or not,
/// on which node.
pub fn local_service(
    lab: &Lab,
    name: &str,
    port: u16,
    endpoints: &[(Ipv4Addr, usize, bool)],
) -> Result<()> {
    lab.control_plane()?.apply(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": "default",
            // A real kube-proxy leaves it alone, and the test answers in its place.
            "labels": {"service.kubernetes.io/service-proxy-name": "the-test"},
        },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": port,
            "clusterIP": "10.0.77.1", "clusterIPs": ["10.0.77.1"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080,
                       "nodePort": port - 1000, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "10.224.0.100"}]}},
    }))?;
    set_endpoints(lab, name, endpoints)
}

/// Tells the API of other endpoints.
pub fn set_endpoints(lab: &Lab, name: &str, endpoints: &[(Ipv4Addr, usize, bool)]) -> Result<()> {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node, ready)| {
            json!({
                "addresses": [ip.to_string()],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "nodeName": lab.topology().nodes[*node].name,
            })
        })
        .collect();
    lab.control_plane()?.apply(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-probed"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }))
}

/// All targets, as `nodescope probes -o json` says.
pub fn targets(agent: &Agent) -> Result<Vec<Value>> {
    lines(agent, &["probes", "-o", "json"])
}

/// A command's output, one JSON object a line.
pub fn lines(agent: &Agent, args: &[&str]) -> Result<Vec<Value>> {
    let output = agent.cli(args)?;
    let (text, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{args:?}: {error}");
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("line {line:?}")))
        .collect()
}

/// The load balancer's target of a port.
pub fn lb_target(agent: &Agent, port: u16) -> Result<Value> {
    let all = targets(agent)?;
    let found = all
        .iter()
        .find(|target| target["kind"] == "lb" && target["port"] == port);
    found
        .cloned()
        .with_context(|| format!("no target {port} in {all:?}"))
}

/// The kubelet's target of a kind of a pod.
pub fn kubelet_target(agent: &Agent, pod: &str, kind: &str) -> Result<Value> {
    let all = targets(agent)?;
    let found = all
        .iter()
        .find(|target| target["pod"] == pod && target["kind"] == kind);
    found
        .cloned()
        .with_context(|| format!("no target {kind} of {pod} in {all:?}"))
}

/// A number that the JSON form of protobuf writes as a string when it has 64 bits.
pub fn count(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

/// A duration in the JSON form of protobuf (`1.5s`), in seconds.
pub fn seconds(value: &Value) -> Option<f64> {
    value.as_str()?.strip_suffix('s')?.parse().ok()
}
