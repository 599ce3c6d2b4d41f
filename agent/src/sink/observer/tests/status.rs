//! What the server says about itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::served::{Served, Tested, flow};
use crate::flow::Flow;
use crate::sink::fixture::{pod, pod_to_pod};
use crate::sink::proto::node::DescribeRequest;
use crate::sink::proto::node::node_client::NodeClient;
use crate::sink::proto::observer::{GetNamespacesRequest, GetNodesRequest, ServerStatusRequest};
use crate::sink::proto::relay::NodeState;

/// A flow that is so old.
fn aged(age: Duration, namespaces: [&str; 2]) -> Arc<Flow> {
    let mut flow = pod_to_pod();
    flow.time = SystemTime::now() - age;
    [flow.source, flow.destination] = namespaces.map(|namespace| pod(namespace, "app"));
    Arc::new(flow)
}

#[tokio::test]
async fn status_has_the_ring_and_its_size() -> Tested {
    let served = Served::start(4).await?;
    let mut flows: Vec<_> = (0..6).map(flow).collect();
    flows.push(aged(Duration::ZERO, ["shop", "shop"]));
    served.observer.push(flows);
    let answer = served
        .client()
        .await?
        .server_status(ServerStatusRequest {})
        .await?;
    let version = answer.metadata().get("hubble-server-version");
    let version = version.context("no version in the header")?.to_str()?;
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let status = answer.into_inner();
    assert_eq!(
        (status.num_flows, status.max_flows, status.seen_flows),
        (4, 4, 7)
    );
    assert!(
        status.uptime_ns > 0 && status.flows_rate > 0.0,
        "{status:?}"
    );
    assert_eq!(
        (status.num_connected_nodes, status.num_unavailable_nodes),
        (Some(1), Some(0))
    );
    assert!(status.unavailable_nodes.is_empty() && !status.version.is_empty());
    served.stop().await
}

#[tokio::test]
async fn the_node_is_connected_and_without_tls_on_a_socket() -> Tested {
    let served = Served::start(4).await?;
    served.observer.push((0..6).map(flow));
    let nodes = served.client().await?.get_nodes(GetNodesRequest {}).await?;
    let nodes = nodes.into_inner().nodes;
    let [node] = &nodes[..] else {
        panic!("{nodes:?}")
    };
    assert_eq!(
        (&*node.name, node.state()),
        ("node-1", NodeState::NodeConnected)
    );
    assert_eq!((node.num_flows, node.max_flows, node.seen_flows), (4, 4, 6));
    let tls = node.tls.as_ref().context("no word of TLS")?;
    assert!(!tls.enabled && tls.server_name.is_empty());
    assert!(node.uptime_ns > 0 && !node.version.is_empty());
    let described = NodeClient::new(served.channel().await?)
        .describe(DescribeRequest {})
        .await?;
    assert_eq!(described.into_inner().name, "node-1");
    served.stop().await
}

#[tokio::test]
async fn namespaces_are_those_of_the_last_hour() -> Tested {
    let served = Served::start(2).await?;
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    served.observer.push([
        aged(minutes(90), ["old", "older"]),
        aged(minutes(59), ["almost", "old"]),
        aged(minutes(61), ["gone", "shop"]),
        // What the ring has forgotten still counts.
        aged(minutes(0), ["shop", "shop"]),
        aged(minutes(0), ["shop", "shop"]),
    ]);
    let answer = served
        .client()
        .await?
        .get_namespaces(GetNamespacesRequest {})
        .await?;
    let names: Vec<_> = answer.into_inner().namespaces;
    let names: Vec<_> = names.iter().map(|one| &*one.namespace).collect();
    assert_eq!(names, ["almost", "old", "shop"]);
    served.stop().await
}

#[tokio::test]
async fn health_is_known_by_the_name_that_stock_clients_ask_for() -> Tested {
    let served = Served::start(1).await?;
    let mut health = HealthClient::new(served.channel().await?);
    for service in ["hubble.server.Observer", ""] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await?;
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let service = "nobody.asks.for.This".to_owned();
    let refused = health.check(HealthCheckRequest { service }).await;
    let code = refused.err().map(|status| status.code());
    assert_eq!(code, Some(Code::NotFound));
    drop(health);
    served.stop().await
}
