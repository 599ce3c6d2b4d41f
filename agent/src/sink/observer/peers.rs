//! `peer.Peer`: every node with an agent, then changes, for a relay that connects to each.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::state::Observer;
use super::tls::Certificates;
use crate::cluster::Agents;
use crate::sink::proto::peer::peer_server::Peer as PeerService;
use crate::sink::proto::peer::{
    ChangeNotification, ChangeNotificationType as Change, NotifyRequest, Tls,
};

/// Changes that wait for a slow reader; after that, only the newest state does.
const QUEUE: usize = 16;

/// The API on the network.
#[derive(Clone, Debug)]
pub struct Network {
    /// Where it listens; of an unspecified address the port counts.
    pub listen: SocketAddr,
    /// An address of the node, for a listener on all of them where the API does not say one.
    pub own: Option<IpAddr>,
    /// Its certificate; without one it speaks plain text.
    pub tls: Option<Arc<Certificates>>,
}

/// How an agent is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// `IP`, `IP:port`, or nothing.
    pub(super) address: String,
    /// Name to check its certificate by; `None` without TLS.
    pub(super) server_name: Option<String>,
}

pub(super) type Peers = BTreeMap<String, Peer>;

impl Observer {
    /// This node's agent, as others reach it.
    pub(super) fn own_peer(&self) -> Peer {
        let known = self.agents().get(&self.config().node).copied();
        let Some(network) = &self.config().network else {
            return known.map_or_else(Peer::default, |known| self.peer(known.ip, None));
        };
        let listen = network.listen;
        let ip = match listen.ip() {
            any if any.is_unspecified() => known.map(|known| known.ip).or(network.own),
            one => Some(one),
        };
        ip.map_or_else(Peer::default, |ip| self.peer(ip, Some(listen.port())))
    }

    /// All agents, this node's included whether the API knows it or not.
    pub(super) fn peers(&self) -> Peers {
        let own_port = self.config().network.as_ref().map(|own| own.listen.port());
        let others = self.agents();
        let mut peers: Peers = others
            .iter()
            // One DaemonSet, one configuration: others listen where this one does.
            .map(|(node, at)| {
                (
                    node.clone(),
                    self.peer_of(node, at.ip, at.port.or(own_port)),
                )
            })
            .collect();
        peers.insert(self.config().node.clone(), self.own_peer());
        peers
    }

    fn peer(&self, ip: IpAddr, port: Option<u16>) -> Peer {
        self.peer_of(&self.config().node, ip, port)
    }

    fn peer_of(&self, node: &str, ip: IpAddr, port: Option<u16>) -> Peer {
        let tls = self
            .config()
            .network
            .as_ref()
            .and_then(|own| own.tls.as_ref());
        Peer {
            address: port.map_or_else(
                || ip.to_string(),
                |port| SocketAddr::new(ip, port).to_string(),
            ),
            server_name: tls.map(|tls| tls.server_name(node, ip)),
        }
    }
}

type Notices = Pin<Box<dyn Stream<Item = Result<ChangeNotification, Status>> + Send>>;

#[tonic::async_trait]
impl PeerService for Observer {
    type NotifyStream = Notices;

    async fn notify(
        &self,
        _: Request<NotifyRequest>,
    ) -> Result<Response<Self::NotifyStream>, Status> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(notify(self.clone(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Tells of every peer, then of changes, until either side goes.
async fn notify(observer: Observer, sender: mpsc::Sender<Result<ChangeNotification, Status>>) {
    let mut closing = observer.watch_closing();
    let mut agents = observer.watch_agents();
    let mut told = Peers::new();
    let telling = async {
        loop {
            agents.mark_unchanged();
            let now = observer.peers();
            for change in changes(&told, &now) {
                if sender.send(Ok(change)).await.is_err() {
                    return;
                }
            }
            told = now;
            next(&mut agents).await;
        }
    };
    tokio::select! {
        () = telling => {}
        () = sender.closed() => {}
        // An error means that the server is gone, which is an end as well.
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// Until there is a change; for ever where none can come any more.
async fn next(agents: &mut watch::Receiver<Arc<Agents>>) {
    if agents.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn changes(before: &Peers, now: &Peers) -> Vec<ChangeNotification> {
    let gone = before.iter().filter(|(name, _)| !now.contains_key(*name));
    let gone = gone.map(|(name, peer)| notice(name, peer, Change::PeerDeleted));
    let come = now
        .iter()
        .filter_map(|(name, peer)| match before.get(name) {
            None => Some(notice(name, peer, Change::PeerAdded)),
            Some(known) if known != peer => Some(notice(name, peer, Change::PeerUpdated)),
            Some(_) => None,
        });
    gone.chain(come).collect()
}

fn notice(name: &str, peer: &Peer, change: Change) -> ChangeNotification {
    ChangeNotification {
        name: name.to_owned(),
        address: peer.address.clone(),
        r#type: change.into(),
        tls: peer
            .server_name
            .clone()
            .map(|server_name| Tls { server_name }),
    }
}
