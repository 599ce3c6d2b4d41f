//! `Peer/Notify`: the nodes of the cluster as a relay is told of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tonic::Streaming;
use tonic::transport::Channel;

use super::network::certificates;
use super::served::{PATIENCE, Served, Tested, observer};
use crate::cluster::{AgentAt, Agents};
use crate::sink::observer::{Network, Observer};
use crate::sink::proto::observer::GetNodesRequest;
use crate::sink::proto::peer::ChangeNotificationType::{PeerAdded, PeerDeleted, PeerUpdated};
use crate::sink::proto::peer::peer_client::PeerClient;
use crate::sink::proto::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest};

fn agents(all: &[(&str, &str, Option<u16>)]) -> anyhow::Result<Arc<Agents>> {
    let mut agents = BTreeMap::new();
    for (node, ip, port) in all {
        let (ip, port): (IpAddr, _) = (ip.parse()?, *port);
        agents.insert((*node).to_owned(), AgentAt { ip, port });
    }
    Ok(Arc::new(agents))
}

async fn notices(served: &Served) -> anyhow::Result<Streaming<ChangeNotification>> {
    let mut client = PeerClient::new(served.channel().await?);
    Ok(client.notify(NotifyRequest {}).await?.into_inner())
}

/// The next notices: kind, name, address.
async fn next(
    stream: &mut Streaming<ChangeNotification>,
    count: usize,
) -> anyhow::Result<Vec<(ChangeNotificationType, String, String)>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let notice = tokio::time::timeout(PATIENCE, stream.message()).await??;
        let notice = notice.context("the stream ended")?;
        if notice.tls.is_some() {
            bail!("without TLS there is no name to check by: {notice:?}");
        }
        all.push((notice.r#type(), notice.name, notice.address));
    }
    Ok(all)
}

fn notice(
    kind: ChangeNotificationType,
    name: &str,
    address: &str,
) -> (ChangeNotificationType, String, String) {
    (kind, name.to_owned(), address.to_owned())
}

fn listening(listen: &str) -> anyhow::Result<Option<Network>> {
    Ok(Some(Network {
        listen: listen.parse()?,
        own: Some("10.224.0.4".parse()?),
        tls: None,
    }))
}

fn with(agents: &watch::Sender<Arc<Agents>>, network: Option<Network>) -> Observer {
    observer(4, network).with_agents(agents.subscribe())
}

#[tokio::test]
async fn every_node_is_added_then_changes_follow_and_the_stream_stays_open() -> Tested {
    let (told, _) = watch::channel(agents(&[
        ("node-1", "10.224.0.4", None),
        ("node-2", "10.224.0.5", None),
        ("node-3", "10.224.0.6", Some(14244)),
    ])?);
    let served = Served::start_with(with(&told, listening("0.0.0.0:4244")?)).await?;
    let mut stream = notices(&served).await?;
    assert_eq!(
        next(&mut stream, 3).await?,
        [
            notice(PeerAdded, "node-1", "10.224.0.4:4244"),
            notice(PeerAdded, "node-2", "10.224.0.5:4244"),
            // Its pod says another port.
            notice(PeerAdded, "node-3", "10.224.0.6:14244"),
        ]
    );
    // One goes, one moves, one comes.
    told.send_replace(agents(&[
        ("node-1", "10.224.0.4", None),
        ("node-3", "fd00::6", Some(4244)),
        ("node-4", "10.224.0.7", None),
    ])?);
    assert_eq!(
        next(&mut stream, 3).await?,
        [
            notice(PeerDeleted, "node-2", "10.224.0.5:4244"),
            notice(PeerUpdated, "node-3", "[fd00::6]:4244"),
            notice(PeerAdded, "node-4", "10.224.0.7:4244"),
        ]
    );
    // A second reader gets all of them anew, and only those that are.
    let mut late = notices(&served).await?;
    let names: Vec<_> = next(&mut late, 3)
        .await?
        .into_iter()
        .map(|one| one.1)
        .collect();
    assert_eq!(names, ["node-1", "node-3", "node-4"]);
    served.stop().await?;
    assert!(stream.message().await?.is_none());
    Ok(())
}

#[tokio::test]
async fn this_node_is_told_of_whether_the_api_knows_its_pod_or_not() -> Tested {
    let nobody = || agents(&[]);
    let this = || agents(&[("node-1", "10.224.0.9", None)]);
    for (network, known, address) in [
        // All addresses: the pod's, else one of the node's own.
        (listening("0.0.0.0:4244")?, this()?, "10.224.0.9:4244"),
        (listening("[::]:4244")?, nobody()?, "10.224.0.4:4244"),
        // One address: that one.
        (listening("127.0.0.1:14244")?, this()?, "127.0.0.1:14244"),
        // Not on the network: relays try their usual port.
        (None, this()?, "10.224.0.9"),
        (None, nobody()?, ""),
    ] {
        let (told, _) = watch::channel(known);
        let served = Served::start_with(with(&told, network)).await?;
        let mut stream = notices(&served).await?;
        assert_eq!(
            next(&mut stream, 1).await?,
            [notice(PeerAdded, "node-1", address)]
        );
        let nodes = served.client().await?.get_nodes(GetNodesRequest {}).await?;
        assert_eq!(nodes.into_inner().nodes[0].address, address);
        drop(stream);
        served.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_an_api_the_stream_has_this_node_and_stays_open() -> Tested {
    let served = Served::start(4).await?;
    let mut stream: Streaming<ChangeNotification> = notices(&served).await?;
    assert_eq!(
        next(&mut stream, 1).await?,
        [notice(PeerAdded, "node-1", "")]
    );
    let more = tokio::time::timeout(std::time::Duration::from_millis(50), stream.message()).await;
    assert!(more.is_err(), "{more:?}");
    let _: Channel = served.channel().await?;
    drop(stream);
    served.stop().await
}

#[tokio::test]
async fn with_tls_every_peer_has_a_name_to_check_by() -> Tested {
    for (names, wanted) in [
        (
            &["agents.nodescope.svc", "other"][..],
            ["agents.nodescope.svc"; 2],
        ),
        // A star stands for one label, which a node's name with dots is not.
        (
            &["*.nodescope.svc"],
            ["node-1.nodescope.svc", "node-2-example-org.nodescope.svc"],
        ),
        (&["10.224.0.4"], ["10.224.0.4", "10.224.0.5"]),
    ] {
        let (files, _authority, _directory) = certificates(names)?;
        let mut network = listening("10.224.0.4:4244")?.context("no network")?;
        network.tls = Some(Arc::new(files));
        let (told, _) = watch::channel(agents(&[("node-2.example.org", "10.224.0.5", None)])?);
        let served = Served::start_with(with(&told, Some(network))).await?;
        let mut stream = notices(&served).await?;
        for wanted in wanted {
            let notice = tokio::time::timeout(PATIENCE, stream.message()).await??;
            let notice = notice.context("ended")?;
            let name = notice.tls.context("no TLS")?.server_name;
            assert_eq!(name, wanted, "{names:?}");
        }
        let nodes = served
            .client()
            .await?
            .get_nodes(GetNodesRequest {})
            .await?
            .into_inner();
        let tls = nodes.nodes[0].tls.as_ref().context("no TLS")?;
        assert!(tls.enabled && tls.server_name == wanted[0], "{tls:?}");
        drop(stream);
        served.stop().await?;
    }
    Ok(())
}
