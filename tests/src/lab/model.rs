//! The network models that a lab can have.

use clap::ValueEnum;

use super::azure::AzureCni;
use super::kubenet::Kubenet;
use super::topology::Topology;
use super::wiring::Wiring;

/// How pods are connected and addressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// A bridge and a pod range on each node, a route table between nodes.
    #[default]
    Kubenet,
    /// Azure CNI: pods in the nodes' subnet, no bridge.
    AzureCni,
    /// Azure CNI Overlay: a pod range on each node, no bridge.
    Overlay,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kubenet, Self::AzureCni, Self::Overlay];

    /// Its name as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kubenet => "kubenet",
            Self::AzureCni => "azure-cni",
            Self::Overlay => "overlay",
        }
    }

    /// Its name in names of labs: letters only.
    pub fn short(self) -> &'static str {
        match self {
            Self::Kubenet => "kn",
            Self::AzureCni => "az",
            Self::Overlay => "ov",
        }
    }

    /// Its wiring. `promiscuous` and `ebtables` are kubenet's alone.
    pub(super) fn wiring(self, promiscuous: bool, ebtables: bool) -> Box<dyn Wiring> {
        match self {
            Self::Kubenet => Box::new(Kubenet {
                promiscuous,
                ebtables,
            }),
            Self::AzureCni | Self::Overlay => Box::new(AzureCni),
        }
    }
}

impl From<Model> for Topology {
    fn from(model: Model) -> Self {
        match model {
            Model::Kubenet => Self::kubenet(),
            Model::AzureCni => Self::azure_cni(),
            Model::Overlay => Self::overlay(),
        }
    }
}
