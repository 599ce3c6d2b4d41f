//! A flow as an OTLP log record: the line of the flow log as its body, and attributes to find it by.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use prost::Message as _;

use super::{Origin, SCHEMA, attributes, nanos};
use crate::flow::{Event, Flow};
use crate::sink::log::line;
use crate::sink::observer::convert;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// What a log record of a flow is called.
pub(super) const EVENT: &str = "nodescope.flow";

/// Bytes of records in one request: receivers take 4 MiB of gRPC unless told otherwise.
const PORTION: usize = 1 << 20;

/// Why a flow has no record.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No line of the flow log.
    #[error(transparent)]
    Line(#[from] line::Error),
    /// A line that is no JSON.
    #[error("record is no JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Requests with all of these flows but those that have no record, of so many records each.
pub(super) fn requests(
    origin: &Origin,
    flows: &[Arc<Flow>],
) -> Vec<(usize, ExportLogsServiceRequest)> {
    let mut requests = Vec::new();
    let (mut portion, mut bytes) = (Vec::new(), 0);
    for flow in flows {
        let record = match record(flow) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%error, "OTLP: flow has no record");
                continue;
            }
        };
        let length = record.encoded_len();
        if bytes + length > PORTION && !portion.is_empty() {
            requests.push(request(origin, std::mem::take(&mut portion)));
            bytes = 0;
        }
        bytes += length;
        portion.push(record);
    }
    if !portion.is_empty() {
        requests.push(request(origin, portion));
    }
    requests
}

fn request(origin: &Origin, log_records: Vec<LogRecord>) -> (usize, ExportLogsServiceRequest) {
    let count = log_records.len();
    let scope_logs = ScopeLogs {
        scope: Some(origin.scope.clone()),
        log_records,
        schema_url: SCHEMA.to_owned(),
    };
    let resource_logs = ResourceLogs {
        resource: Some(origin.resource.clone()),
        scope_logs: vec![scope_logs],
        schema_url: SCHEMA.to_owned(),
    };
    let request = ExportLogsServiceRequest {
        resource_logs: vec![resource_logs],
    };
    (count, request)
}

/// The record of a flow.
pub(super) fn record(flow: &Flow) -> Result<LogRecord, Error> {
    let response = convert::response(flow);
    let id = match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => flow.uuid.clone(),
        _ => String::new(),
    };
    let mut text = Vec::new();
    line::write(response, &mut text)?;
    let body = value(serde_json::from_slice(&text)?);
    let severity = match flow.event {
        Event::Drop => SeverityNumber::Warn,
        Event::Open | Event::Update | Event::Close => SeverityNumber::Info,
    };
    Ok(LogRecord {
        time_unix_nano: nanos(flow.time),
        observed_time_unix_nano: nanos(SystemTime::now()),
        severity_number: severity.into(),
        severity_text: match severity {
            SeverityNumber::Warn => "WARN".to_owned(),
            _ => "INFO".to_owned(),
        },
        body: Some(body),
        attributes: attributes::of(flow, &id),
        event_name: EVENT.to_owned(),
        ..LogRecord::default()
    })
}

/// A JSON value as OTLP has it.
fn value(json: serde_json::Value) -> AnyValue {
    use serde_json::Value as Json;
    let value = match json {
        Json::Null => return AnyValue::default(),
        Json::Bool(flag) => Value::BoolValue(flag),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::IntValue(whole),
            None => Value::DoubleValue(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::StringValue(text),
        Json::Array(items) => Value::ArrayValue(ArrayValue {
            values: items.into_iter().map(value).collect(),
        }),
        Json::Object(fields) => Value::KvlistValue(KeyValueList {
            values: fields
                .into_iter()
                .map(|(key, field)| KeyValue {
                    key,
                    value: Some(value(field)),
                    ..KeyValue::default()
                })
                .collect(),
        }),
    };
    AnyValue { value: Some(value) }
}
