//! Labels about the ends of a flow, as many of them as are wanted.

use std::str::FromStr;

use crate::flow::{Flow, Identity};

/// A label about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FlowLabel {
    /// Namespace of the initiator.
    SourceNamespace,
    /// Workload of the initiator; the pod's name when it has none.
    SourceWorkload,
    /// Pod that is the initiator.
    SourcePod,
    /// Namespace of the destination.
    DestinationNamespace,
    /// Workload of the destination.
    DestinationWorkload,
    /// Pod that is the destination.
    DestinationPod,
}

impl FlowLabel {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::SourceNamespace,
        Self::SourceWorkload,
        Self::SourcePod,
        Self::DestinationNamespace,
        Self::DestinationWorkload,
        Self::DestinationPod,
    ];

    /// The name that it has in metrics and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceNamespace => "source_namespace",
            Self::SourceWorkload => "source_workload",
            Self::SourcePod => "source_pod",
            Self::DestinationNamespace => "destination_namespace",
            Self::DestinationWorkload => "destination_workload",
            Self::DestinationPod => "destination_pod",
        }
    }

    fn value(self, flow: &Flow) -> &str {
        let (end, part) = match self {
            Self::SourceNamespace => (&flow.source, Part::Namespace),
            Self::SourceWorkload => (&flow.source, Part::Workload),
            Self::SourcePod => (&flow.source, Part::Pod),
            Self::DestinationNamespace => (&flow.destination, Part::Namespace),
            Self::DestinationWorkload => (&flow.destination, Part::Workload),
            Self::DestinationPod => (&flow.destination, Part::Pod),
        };
        part.of(end)
    }
}

impl FromStr for FlowLabel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|label| label.name() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::name).join(", ");
                format!("`{text}` is no label of flow metrics: choose from {known}")
            })
    }
}

enum Part {
    Namespace,
    Workload,
    Pod,
}

impl Part {
    /// Empty for what has none, which to Prometheus is a label that is not there.
    fn of(self, identity: &Identity) -> &str {
        match (self, identity) {
            (Self::Namespace, Identity::Pod(pod)) => &pod.name.namespace,
            (Self::Namespace, Identity::Service(service)) => &service.namespace,
            (Self::Workload, Identity::Pod(pod)) => match &pod.workload {
                Some(workload) => &workload.name,
                None => &pod.name.name,
            },
            (Self::Pod, Identity::Pod(pod)) => &pod.name.name,
            _ => "",
        }
    }
}

/// Labels about the ends that flow metrics have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLabels(Vec<FlowLabel>);

impl FlowLabels {
    /// These, each once, in the order of [`FlowLabel::ALL`].
    pub fn new(labels: impl IntoIterator<Item = FlowLabel>) -> Self {
        let mut labels: Vec<_> = labels.into_iter().collect();
        labels.sort_unstable();
        labels.dedup();
        Self(labels)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|label| label.name())
    }

    pub(super) fn values<'a>(&self, flow: &'a Flow) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|label| label.value(flow))
    }
}

impl Default for FlowLabels {
    /// Namespace and workload of both ends: pods come and go, and each would be a series.
    fn default() -> Self {
        Self::new([
            FlowLabel::SourceNamespace,
            FlowLabel::SourceWorkload,
            FlowLabel::DestinationNamespace,
            FlowLabel::DestinationWorkload,
        ])
    }
}
