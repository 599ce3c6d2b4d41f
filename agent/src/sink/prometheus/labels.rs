//! Labels about the ends of a flow, as many of them as are wanted.

use std::str::FromStr;

use super::present::End;
use crate::flow::{Flow, Identity, Pod};

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

    /// The end that it is about, 0 for the initiator, and what of it.
    fn place(self) -> (usize, Part) {
        match self {
            Self::SourceNamespace => (0, Part::Namespace),
            Self::SourceWorkload => (0, Part::Workload),
            Self::SourcePod => (0, Part::Pod),
            Self::DestinationNamespace => (1, Part::Namespace),
            Self::DestinationWorkload => (1, Part::Workload),
            Self::DestinationPod => (1, Part::Pod),
        }
    }

    fn value(self, flow: &Flow) -> &str {
        let (end, part) = self.place();
        part.of([&flow.source, &flow.destination][end])
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

#[derive(Clone, Copy)]
enum Part {
    Namespace,
    Workload,
    Pod,
}

impl Part {
    /// Empty for what has none, which to Prometheus is a label that is not there.
    fn of(self, identity: &Identity) -> &str {
        match (self, identity) {
            (part, Identity::Pod(pod)) => part.of_pod(pod),
            (Self::Namespace, Identity::Service(service)) => &service.namespace,
            _ => "",
        }
    }

    fn of_pod(self, pod: &Pod) -> &str {
        match self {
            Self::Namespace => &pod.name.namespace,
            Self::Workload => match &pod.workload {
                Some(workload) => &workload.name,
                None => &pod.name.name,
            },
            Self::Pod => &pod.name.name,
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

    /// The two ends that label values name.
    pub(super) fn ends(&self, values: &[&str]) -> [End; 2] {
        let mut ends = [End::default(), End::default()];
        for (label, value) in self.0.iter().zip(values) {
            let (end, part) = label.place();
            ends[end][part as usize] = (*value).to_owned();
        }
        ends
    }

    /// What the labels say of a pod that is this end.
    pub(super) fn of_pod(&self, end: usize, pod: &Pod) -> End {
        self.of_end(end, |part| part.of_pod(pod))
    }

    /// What the labels say of an end of which there is a namespace and nothing else.
    pub(super) fn of_namespace(&self, end: usize, namespace: &str) -> End {
        self.of_end(end, |part| match part {
            Part::Namespace => namespace,
            Part::Workload | Part::Pod => "",
        })
    }

    fn of_end<'a>(&self, end: usize, value: impl Fn(Part) -> &'a str) -> End {
        let mut names = End::default();
        let places = self.0.iter().map(|label| label.place());
        for (_, part) in places.filter(|(of, _)| *of == end) {
            names[part as usize] = value(part).to_owned();
        }
        names
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
