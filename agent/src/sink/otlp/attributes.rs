//! Attributes of a flow, by the names of OpenTelemetry's semantic conventions where there are any:
//! `source`, `destination` and `network` as they stand, and those of Kubernetes, which are for one
//! object, behind the name of the end that they are about. The rest begins with `nodescope`.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

use crate::flow::{Counts, Event, Flow, Identity, ObjectName};
use crate::sink::names;
use crate::sink::observer::convert::final_destination;

/// Kinds of workload that the conventions have a name for.
const WORKLOADS: [&str; 6] = [
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "ReplicaSet",
    "StatefulSet",
];

/// An attribute with a text.
pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: u64) -> KeyValue {
    // Counts of packets and bytes stay below 2^63 for longer than there are networks.
    attribute(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Those of a flow with the id of its record.
pub(super) fn of(flow: &Flow, id: &str) -> Vec<KeyValue> {
    let (from, to) = (flow.tuple.source, final_destination(flow));
    let protocol = flow.tuple.protocol;
    let version = if from.is_ipv4() { "ipv4" } else { "ipv6" };
    let mut all = vec![
        text("log.record.uid", id),
        text("source.address", from.ip().to_string()),
        text("destination.address", to.ip().to_string()),
        text("network.transport", protocol.to_string().to_lowercase()),
        text("network.type", version),
    ];
    // What ICMP has in the place of ports are none.
    if !protocol.is_icmp() {
        all.push(number("source.port", u64::from(from.port())));
        all.push(number("destination.port", u64::from(to.port())));
    }
    if let Some(hop) = flow.hops.last() {
        all.push(text("network.interface.name", &*hop.interface));
    }
    end(&mut all, "source", &flow.source);
    end(&mut all, "destination", &flow.destination);
    if let Some(service) = &flow.destination_service {
        named(&mut all, "destination.k8s.service", service);
    }
    own(&mut all, flow);
    all
}

fn end(all: &mut Vec<KeyValue>, end: &str, identity: &Identity) {
    match identity {
        Identity::Pod(pod) => {
            all.push(text(
                &format!("{end}.k8s.namespace.name"),
                &*pod.name.namespace,
            ));
            all.push(text(&format!("{end}.k8s.pod.name"), &*pod.name.name));
            if !pod.uid.is_empty() {
                all.push(text(&format!("{end}.k8s.pod.uid"), &*pod.uid));
            }
            if !pod.node.is_empty() {
                all.push(text(&format!("{end}.k8s.node.name"), &*pod.node));
            }
            let known = pod.workload.as_ref();
            let known = known.filter(|workload| WORKLOADS.contains(&&*workload.kind));
            if let Some(workload) = known {
                let kind = workload.kind.to_lowercase();
                all.push(text(&format!("{end}.k8s.{kind}.name"), &*workload.name));
            }
        }
        Identity::Node(node) => {
            all.push(text(&format!("{end}.k8s.node.name"), &*node.name));
        }
        Identity::Service(service) => named(all, &format!("{end}.k8s.service"), service),
        Identity::UnknownPod | Identity::Platform | Identity::World | Identity::Unknown => {}
    }
}

fn named(all: &mut Vec<KeyValue>, prefix: &str, object: &ObjectName) {
    all.push(text(&format!("{prefix}.name"), &*object.name));
    all.push(text(&format!("{prefix}.namespace"), &*object.namespace));
}

fn own(all: &mut Vec<KeyValue>, flow: &Flow) {
    let dropped = flow.event == Event::Drop;
    let verdict = if dropped { "DROPPED" } else { "FORWARDED" };
    all.extend([
        text("nodescope.event", names::event(flow.event)),
        text("nodescope.connection", format!("{:016x}", flow.connection)),
        text("nodescope.class", names::class(flow.class)),
        text("nodescope.verdict", verdict),
        text("nodescope.nat.kind", names::nat_kind(flow.nat.kind)),
        text("nodescope.nat.cause", names::nat_cause(flow.nat.cause)),
    ]);
    if let Some(scope) = flow.scope {
        all.push(text("nodescope.scope", names::scope(scope)));
    }
    if let Some(drop) = &flow.drop {
        all.push(text("nodescope.drop.reason", &*drop.reason));
    }
    let mut counts = |direction: &str, delta: Counts| {
        all.push(number(
            &format!("nodescope.{direction}.packets"),
            delta.packets,
        ));
        all.push(number(&format!("nodescope.{direction}.bytes"), delta.bytes));
    };
    counts("forward", flow.forward.delta);
    counts("reply", flow.reply.delta);
}
