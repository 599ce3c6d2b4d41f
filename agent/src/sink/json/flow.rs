//! The JSON of a flow record written straight from its fields. By way of the descriptors, as all
//! other messages go, it is encoded, decoded and looked up field by field first, and there are
//! thousands a second of these.

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde::ser::{Serialize, SerializeMap, SerializeSeq as _, Serializer};

use crate::sink::observer::structs::{self, Fields, STRUCT_URL};
use crate::sink::proto::flow::layer4::Protocol;
use crate::sink::proto::flow::{
    CiliumEventType, DropReason, Emitter, Endpoint, Flow, FlowType, IcmPv4, IcmPv6, Ip, IpVersion,
    Layer4, NetworkInterface, Sctp, Service, Tcp, TcpFlags, TraceObservationPoint,
    TrafficDirection, Udp, Verdict, Workload,
};
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// A record that can be written so.
pub struct Plain<'a> {
    record: &'a GetFlowsResponse,
    flow: &'a Flow,
    extensions: Option<Fields>,
}

impl<'a> Plain<'a> {
    /// `None` for one that is no flow, or has fields that the agent never fills.
    pub fn of(record: &'a GetFlowsResponse) -> Option<Self> {
        let Some(ResponseTypes::Flow(flow)) = &record.response_types else {
            return None;
        };
        let extensions = match &flow.extensions {
            Some(any) => Some(structs::unpack(any)?),
            None => None,
        };
        only_known(flow).then_some(Self {
            record,
            flow,
            extensions,
        })
    }
}

/// Whether all that is set is written by [`Plain`]. Every field is named, so that a new one is
/// either written or looked at here.
#[allow(deprecated, reason = "older servers fill these")]
fn only_known(flow: &Flow) -> bool {
    let Flow {
        time: _,
        verdict: _,
        drop_reason,
        ethernet,
        ip: _,
        l4: _,
        source: _,
        destination: _,
        r#type: _,
        node_name: _,
        source_names,
        destination_names,
        l7,
        reply,
        event_type: _,
        source_service: _,
        destination_service: _,
        traffic_direction: _,
        policy_match_type,
        trace_observation_point: _,
        drop_reason_desc: _,
        is_reply: _,
        interface: _,
        socket_cookie,
        uuid: _,
        trace_reason,
        node_labels,
        emitter: _,
        egress_allowed_by,
        ingress_allowed_by,
        egress_denied_by,
        ingress_denied_by,
        summary: _,
        extensions: _,
    } = flow;
    let numbers = u64::from(*drop_reason) | u64::from(*policy_match_type) | *socket_cookie;
    let policies = [
        egress_allowed_by,
        ingress_allowed_by,
        egress_denied_by,
        ingress_denied_by,
    ];
    numbers == 0
        && *trace_reason == 0
        && !reply
        && ethernet.is_none()
        && l7.is_none()
        && source_names.is_empty()
        && destination_names.is_empty()
        && node_labels.is_empty()
        && policies.iter().all(|some| some.is_empty())
}

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.always("flow", &OfFlow(self.flow, self.extensions.as_ref()))?;
        map.text("node_name", &self.record.node_name)?;
        map.time("time", self.record.time.as_ref())?;
        map.0.end()
    }
}

/// A map that leaves out what is empty, zero or false, as the protobuf mapping does.
struct Map<M>(M);

impl<M: SerializeMap> Map<M> {
    fn always(&mut self, name: &'static str, value: &impl Serialize) -> Result<(), M::Error> {
        self.0.serialize_entry(name, value)
    }

    fn text(&mut self, name: &'static str, value: &str) -> Result<(), M::Error> {
        match value {
            "" => Ok(()),
            value => self.0.serialize_entry(name, value),
        }
    }

    fn number(&mut self, name: &'static str, value: u32) -> Result<(), M::Error> {
        match value {
            0 => Ok(()),
            value => self.0.serialize_entry(name, &value),
        }
    }

    fn flag(&mut self, name: &'static str, value: bool) -> Result<(), M::Error> {
        match value {
            false => Ok(()),
            true => self.0.serialize_entry(name, &true),
        }
    }

    /// An enum by its name; a number that has none, of a newer server, as that number.
    fn name(
        &mut self,
        name: &'static str,
        value: i32,
        known: Option<&str>,
    ) -> Result<(), M::Error> {
        match (value, known) {
            (0, _) => Ok(()),
            (_, Some(known)) => self.0.serialize_entry(name, known),
            (value, None) => self.0.serialize_entry(name, &value),
        }
    }

    fn time(
        &mut self,
        name: &'static str,
        value: Option<&prost_types::Timestamp>,
    ) -> Result<(), M::Error> {
        match value {
            Some(time) => self.0.serialize_entry(name, &time.to_string()),
            None => Ok(()),
        }
    }

    /// A message, if it is there.
    fn some<'a, T>(&mut self, name: &'static str, value: &'a Option<T>) -> Result<(), M::Error>
    where
        Of<'a, T>: Serialize,
    {
        match value {
            Some(value) => self.0.serialize_entry(name, &Of(value)),
            None => Ok(()),
        }
    }
}

struct OfFlow<'a>(&'a Flow, Option<&'a Fields>);

impl Serialize for OfFlow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(flow, extensions) = self;
        let mut map = Map(serializer.serialize_map(None)?);
        map.time("time", flow.time.as_ref())?;
        let verdict = Verdict::try_from(flow.verdict).ok();
        map.name("verdict", flow.verdict, verdict.map(|v| v.as_str_name()))?;
        map.some("IP", &flow.ip)?;
        map.some("l4", &flow.l4)?;
        map.some("source", &flow.source)?;
        map.some("destination", &flow.destination)?;
        let kind = FlowType::try_from(flow.r#type).ok();
        map.name("Type", flow.r#type, kind.map(|kind| kind.as_str_name()))?;
        map.text("node_name", &flow.node_name)?;
        map.some("event_type", &flow.event_type)?;
        map.some("source_service", &flow.source_service)?;
        map.some("destination_service", &flow.destination_service)?;
        let value = flow.traffic_direction;
        let direction = TrafficDirection::try_from(value).ok();
        map.name(
            "traffic_direction",
            value,
            direction.map(|d| d.as_str_name()),
        )?;
        let value = flow.trace_observation_point;
        let point = TraceObservationPoint::try_from(value).ok();
        map.name(
            "trace_observation_point",
            value,
            point.map(|p| p.as_str_name()),
        )?;
        let value = flow.drop_reason_desc;
        let reason = DropReason::try_from(value).ok();
        map.name("drop_reason_desc", value, reason.map(|r| r.as_str_name()))?;
        if let Some(is_reply) = &flow.is_reply {
            map.always("is_reply", is_reply)?;
        }
        map.some("interface", &flow.interface)?;
        map.text("uuid", &flow.uuid)?;
        map.some("emitter", &flow.emitter)?;
        map.text("Summary", &flow.summary)?;
        if let Some(fields) = extensions {
            map.always("extensions", &OfAny(fields))?;
        }
        map.0.end()
    }
}

/// A message to be written.
struct Of<'a, T>(&'a T);

impl Serialize for Of<'_, Ip> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.text("source", &self.0.source)?;
        map.text("destination", &self.0.destination)?;
        let version = IpVersion::try_from(self.0.ip_version).ok();
        let known = version.map(|version| version.as_str_name());
        map.name("ipVersion", self.0.ip_version, known)?;
        map.flag("encrypted", self.0.encrypted)?;
        map.text("source_xlated", &self.0.source_xlated)?;
        map.0.end()
    }
}

impl Serialize for Of<'_, Layer4> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        match &self.0.protocol {
            Some(Protocol::Tcp(Tcp {
                source_port,
                destination_port,
                flags,
            })) => map.always(
                "TCP",
                &Ports(*source_port, *destination_port, flags.as_ref()),
            )?,
            Some(Protocol::Udp(Udp {
                source_port,
                destination_port,
            })) => map.always("UDP", &Ports(*source_port, *destination_port, None))?,
            Some(Protocol::Sctp(Sctp {
                source_port,
                destination_port,
            })) => map.always("SCTP", &Ports(*source_port, *destination_port, None))?,
            Some(Protocol::IcmPv4(IcmPv4 { r#type, code })) => {
                map.always("ICMPv4", &Kinds(*r#type, *code))?;
            }
            Some(Protocol::IcmPv6(IcmPv6 { r#type, code })) => {
                map.always("ICMPv6", &Kinds(*r#type, *code))?;
            }
            None => {}
        }
        map.0.end()
    }
}

struct Ports<'a>(u32, u32, Option<&'a TcpFlags>);

impl Serialize for Ports<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.number("source_port", self.0)?;
        map.number("destination_port", self.1)?;
        if let Some(flags) = self.2 {
            map.always("flags", &Of(flags))?;
        }
        map.0.end()
    }
}

struct Kinds(u32, u32);

impl Serialize for Kinds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.number("type", self.0)?;
        map.number("code", self.1)?;
        map.0.end()
    }
}

impl Serialize for Of<'_, TcpFlags> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let flags = self.0;
        let mut map = Map(serializer.serialize_map(None)?);
        for (name, set) in [
            ("FIN", flags.fin),
            ("SYN", flags.syn),
            ("RST", flags.rst),
            ("PSH", flags.psh),
            ("ACK", flags.ack),
            ("URG", flags.urg),
            ("ECE", flags.ece),
            ("CWR", flags.cwr),
            ("NS", flags.ns),
        ] {
            map.flag(name, set)?;
        }
        map.0.end()
    }
}

impl Serialize for Of<'_, Endpoint> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Endpoint {
            id,
            identity,
            namespace,
            labels,
            pod_name,
            workloads,
            cluster_name,
        } = self.0;
        let mut map = Map(serializer.serialize_map(None)?);
        map.number("ID", *id)?;
        map.number("identity", *identity)?;
        map.text("namespace", namespace)?;
        if !labels.is_empty() {
            map.always("labels", labels)?;
        }
        map.text("pod_name", pod_name)?;
        if !workloads.is_empty() {
            let all: Vec<_> = workloads.iter().map(Of).collect();
            map.always("workloads", &all)?;
        }
        map.text("cluster_name", cluster_name)?;
        map.0.end()
    }
}

impl Serialize for Of<'_, Workload> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.text("name", &self.0.name)?;
        map.text("kind", &self.0.kind)?;
        map.0.end()
    }
}

impl Serialize for Of<'_, CiliumEventType> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        for (name, value) in [("type", self.0.r#type), ("sub_type", self.0.sub_type)] {
            map.name(name, value, None)?;
        }
        map.0.end()
    }
}

impl Serialize for Of<'_, Service> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.text("name", &self.0.name)?;
        map.text("namespace", &self.0.namespace)?;
        map.0.end()
    }
}

impl Serialize for Of<'_, NetworkInterface> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.number("index", self.0.index)?;
        map.text("name", &self.0.name)?;
        map.0.end()
    }
}

impl Serialize for Of<'_, Emitter> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.text("name", &self.0.name)?;
        map.text("version", &self.0.version)?;
        map.0.end()
    }
}

/// An `Any` with a `Struct` in it.
struct OfAny<'a>(&'a Fields);

impl Serialize for OfAny<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = Map(serializer.serialize_map(None)?);
        map.always("@type", &STRUCT_URL)?;
        map.always("value", &OfFields(self.0))?;
        map.0.end()
    }
}

struct OfFields<'a>(&'a Fields);

impl Serialize for OfFields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, &Of(value))?;
        }
        map.end()
    }
}

impl Serialize for Of<'_, Value> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            None | Some(Kind::NullValue(_)) => serializer.serialize_unit(),
            Some(Kind::NumberValue(number)) => serializer.serialize_f64(*number),
            Some(Kind::StringValue(text)) => serializer.serialize_str(text),
            Some(Kind::BoolValue(flag)) => serializer.serialize_bool(*flag),
            Some(Kind::StructValue(Struct { fields })) => OfFields(fields).serialize(serializer),
            Some(Kind::ListValue(list)) => {
                let mut seq = serializer.serialize_seq(Some(list.values.len()))?;
                for value in &list.values {
                    seq.serialize_element(&Of(value))?;
                }
                seq.end()
            }
        }
    }
}
