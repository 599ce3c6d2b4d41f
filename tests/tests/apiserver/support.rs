//! A server with a small cluster in it, clients for it, and bounded waits.

use std::future::Future;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nodescope_tests::apiserver::{ApiServer, objects};

/// Longest wait for anything that should happen at once.
const LIMIT: Duration = Duration::from_secs(30);

/// The token of every server here.
pub const TOKEN: &str = "lab-token";

const CLUSTER: &str = r#"
{apiVersion: v1, kind: Node,
 metadata: {name: node-1, labels: {kubernetes.io/role: agent}},
 status: {conditions: [{type: Ready, status: "True"}],
          addresses: [{type: InternalIP, address: 10.224.0.4}],
          nodeInfo: {kubeletVersion: v1.32.4, osImage: Ubuntu, kernelVersion: 6.1.0,
                     containerRuntimeVersion: containerd://2.0}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-1, labels: {app: web}},
 spec: {nodeName: node-1, containers: [{name: c, image: web}]},
 status: {phase: Running, podIP: 10.244.0.4, podIPs: [{ip: 10.244.0.4}],
          containerStatuses: [{name: c, ready: true, state: {running: {}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-2, labels: {app: web}},
 spec: {nodeName: node-2, containers: [{name: c, image: web}]},
 status: {phase: Running, podIP: 10.244.1.4}}
---
{apiVersion: v1, kind: Pod, metadata: {name: coredns, namespace: kube-system},
 spec: {nodeName: node-1, containers: [{name: c, image: dns}]},
 status: {phase: Running, podIP: 10.244.0.5}}
---
{apiVersion: v1, kind: Service, metadata: {name: web},
 spec: {clusterIP: 10.0.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
"#;

/// A server on loopback with a node, three pods and a service.
pub fn cluster() -> ApiServer {
    let server = ApiServer::start("127.0.0.1:0".parse().unwrap(), TOKEN).unwrap();
    server.load(objects(CLUSTER).unwrap()).unwrap();
    server
}

/// A kube-rs client with the server's own kubeconfig, over TLS.
pub async fn client(server: &ApiServer) -> Client {
    client_with(&server.kubeconfig(&server.url())).await
}

/// A kube-rs client with a kubeconfig.
pub async fn client_with(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Waits for a future, not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The HTTP code of a refusal.
pub fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}
