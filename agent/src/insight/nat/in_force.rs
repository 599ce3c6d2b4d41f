//! The masquerade configuration in force on this node: what the API or a flag says, else the
//! default of the network model.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::cluster::{Inventory, Masquerade, MasqueradeConfig};
use crate::node::ModelKind;

/// Length of the range that kubenet clusters give to all their nodes together, unless told
/// otherwise (`--cluster-cidr`; AKS: `--pod-cidr 10.244.0.0/16`).
const CLUSTER_PREFIX: u8 = 16;

/// What the configuration allows to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The configuration; or why it cannot be told, and the mend.
    pub config: Result<MasqueradeConfig, String>,
    /// Ranges about whose addresses nothing can be said where `config` does not name them.
    unsure: Vec<IpNet>,
}

impl InForce {
    /// What holds on a node of this model.
    pub fn new(inventory: &Inventory, model: ModelKind) -> Self {
        let certain = Self::certain;
        if model == ModelKind::Cilium {
            return certain(Err(
                "Cilium translates in BPF, past iptables and conntrack: not visible here"
                    .to_owned(),
            ));
        }
        match inventory.masquerade() {
            Masquerade::Configured(config) => certain(Ok(config.clone())),
            Masquerade::Unknown(why) => certain(Err(why.clone())),
            Masquerade::Absent if model == ModelKind::Kubenet => kubenet(inventory),
            Masquerade::Absent => certain(Err(format!(
                "no ConfigMap of a masquerade agent in kube-system, and {model} has no default: \
                 give --non-masquerade-cidr"
            ))),
        }
    }

    /// What says all that is to be said.
    pub(super) fn certain(config: Result<MasqueradeConfig, String>) -> Self {
        Self {
            config,
            unsure: Vec::new(),
        }
    }

    /// Whether something can be said about an address that the configuration does not name.
    pub fn is_sure_about(&self, ip: IpAddr) -> bool {
        !self.unsure.iter().any(|range| range.contains(&ip))
    }
}

/// kubenet: `MASQUERADE ! -d <pod range of the cluster>`, everything else included.
fn kubenet(inventory: &Inventory) -> InForce {
    let ranges = inventory.pod_ranges();
    if ranges.is_empty() {
        return InForce {
            config: Err("no pod range is known, by which kubenet decides: give --pod-cidr".into()),
            unsure: Vec::new(),
        };
    }
    let given = inventory.pod_ranges_are_given();
    // The API tells the ranges of the nodes there are, not the one they are cut from.
    let unsure = if given {
        Vec::new()
    } else {
        ranges.iter().filter_map(around).collect()
    };
    let from = if given {
        "--pod-cidr"
    } else {
        "pod CIDRs of the nodes"
    };
    InForce {
        config: Ok(MasqueradeConfig {
            non_masquerade: ranges,
            masq_link_local: Some(true),
            source: format!("kubenet default ({from})"),
        }),
        unsure,
    }
}

/// The range that a node's pod range is probably cut from.
fn around(range: &IpNet) -> Option<IpNet> {
    let IpNet::V4(net) = range else { return None };
    let prefix = net.prefix_len().min(CLUSTER_PREFIX);
    Some(Ipv4Net::new(net.network(), prefix).ok()?.trunc().into())
}
