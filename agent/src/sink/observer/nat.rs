//! The service `nodescope.v1.Nat`.

use std::net::SocketAddr;
use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status};

use crate::flow::Tuple;
use crate::insight::nat::{InUse, Translation, Translations};
use crate::sink::names;
use crate::sink::proto::node as proto;
use crate::sink::proto::node::nat_server::Nat;

/// Answers from what the agent keeps of open connections.
#[derive(Clone, Debug)]
pub struct NatService {
    node: String,
    translations: Translations,
}

impl NatService {
    /// For the node of this name.
    pub fn new(node: String, translations: Translations) -> Self {
        Self { node, translations }
    }

    fn translation(&self, one: &Translation) -> proto::Translation {
        let nat = &one.nat;
        proto::Translation {
            node: self.node.clone(),
            connection: format!("{:016x}", one.connection),
            protocol: nat.original.protocol.to_string(),
            original: Some(tuple(&nat.original)),
            translated: Some(tuple(&nat.translated)),
            kind: names::nat_kind(nat.kind).to_owned(),
            cause: names::nat_cause(nat.cause).to_owned(),
            expected: names::expected(nat.expected).to_owned(),
            configured: one.because.as_deref().unwrap_or_default().to_owned(),
            observed: nat.observed(),
            mismatch: nat.is_mismatch(),
            source: nat.source.map_or("", names::nat_source).to_owned(),
            source_pod: one.source.to_string(),
            destination_pod: one.destination.to_string(),
            service: one.service.to_string(),
            started: Some(one.started.into()),
        }
    }

    fn ports(&self, one: &InUse) -> proto::SnatPorts {
        let pods = one.pods.iter().map(|(pod, connections)| proto::PodPorts {
            pod: pod.to_string(),
            connections: u64::from(*connections),
        });
        proto::SnatPorts {
            node: self.node.clone(),
            address: one.destination.address.ip().to_string(),
            port: u32::from(one.destination.address.port()),
            protocol: one.destination.protocol.to_string(),
            from: one.destination.from.to_string(),
            ports: one.ports as u64,
            pods: pods.collect(),
        }
    }
}

fn tuple(tuple: &Tuple) -> proto::NatTuple {
    let end = |end: SocketAddr| (end.ip().to_string(), u32::from(end.port()));
    let ((src, sport), (dst, dport)) = (end(tuple.source), end(tuple.destination));
    proto::NatTuple {
        src,
        sport,
        dst,
        dport,
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Nat for NatService {
    type TranslationsStream = Answers<proto::Translation>;
    type PortsStream = Answers<proto::SnatPorts>;

    async fn translations(
        &self,
        request: Request<proto::TranslationsRequest>,
    ) -> Result<Response<Self::TranslationsStream>, Status> {
        let all = request.into_inner().all;
        let mut open = self.translations.open();
        open.retain(|one| all || one.nat.original != one.nat.translated || one.nat.is_mismatch());
        let service = self.clone();
        let answers = open
            .into_iter()
            .map(move |one| Ok(service.translation(&one)));
        Ok(Response::new(Box::pin(futures::stream::iter(answers))))
    }

    async fn ports(
        &self,
        _: Request<proto::PortsRequest>,
    ) -> Result<Response<Self::PortsStream>, Status> {
        let service = self.clone();
        let ports = self.translations.ports().into_iter();
        let answers = ports.map(move |one| Ok(service.ports(&one)));
        Ok(Response::new(Box::pin(futures::stream::iter(answers))))
    }
}
