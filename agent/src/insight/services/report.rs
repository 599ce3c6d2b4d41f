//! A service: what the API says beside what was seen.

use crate::cluster::{Inventory, Service};

use super::observed::Observed;

/// Whether what was seen is what the policy promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// No connection from outside was seen, or there is no policy.
    Unknown,
}

/// What a node's health-check port answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// HTTP status.
    pub status: u16,
    /// `localEndpoints` of the body.
    pub local_endpoints: Option<u64>,
}

/// A service on one node.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the API says.
    pub service: Service,
    /// `Cluster` or `Local`; `None` for a service without an address towards the outside.
    pub policy: Option<&'static str>,
    /// Ready endpoints, each address once.
    pub ready: u32,
    /// Those on this node.
    pub ready_here: u32,
    /// What was seen.
    pub observed: Observed,
    /// The answer of the health-check node port on this node, once it was seen.
    pub health: Option<Health>,
}

/// `externalTrafficPolicy`, of services that have one.
pub fn policy(service: &Service) -> Option<&'static str> {
    let outside = matches!(service.kind.as_str(), "NodePort" | "LoadBalancer")
        || !service.external_ips.is_empty();
    outside.then_some(if service.local_policy {
        "Local"
    } else {
        "Cluster"
    })
}

impl Report {
    pub(super) fn new(
        service: &Service,
        observed: Observed,
        inventory: &Inventory,
        node: &str,
    ) -> Self {
        let ready = |here: bool| {
            let mut ips: Vec<_> = inventory
                .service_backends(&service.name)
                .iter()
                .filter(|backend| backend.ready)
                .filter(|backend| !here || backend.node.as_deref() == Some(node))
                .map(|backend| backend.ip)
                .collect();
            ips.sort_unstable();
            ips.dedup();
            u32::try_from(ips.len()).unwrap_or(u32::MAX)
        };
        Self {
            policy: policy(service),
            ready: ready(false),
            ready_here: ready(true),
            observed,
            health: None,
            service: service.clone(),
        }
    }

    /// `kept`, `lost`, `mixed` or `unseen`.
    pub fn client_ip(&self) -> &'static str {
        match (self.observed.external_kept, self.observed.external_lost) {
            (0, 0) => "unseen",
            (_, 0) => "kept",
            (0, _) => "lost",
            _ => "mixed",
        }
    }

    /// `Local` keeps the client's address and stays on the node; `Cluster` masquerades what
    /// comes from outside, for the answer has to come back by the node that translated it
    /// (kube-proxy, chains `KUBE-EXT-`).
    pub fn agrees(&self) -> Agreement {
        let seen = &self.observed;
        let wrong = match self.policy {
            _ if seen.external() == 0 => return Agreement::Unknown,
            None => return Agreement::Unknown,
            Some("Local") => seen.external_lost + seen.second_hop,
            Some(_) => seen.external_kept,
        };
        if wrong == 0 {
            Agreement::Yes
        } else {
            Agreement::No
        }
    }
}
