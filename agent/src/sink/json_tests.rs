//! The JSON form, there and back.

use super::*;
use crate::flow::{Identity, Protocol};
use crate::sink::fixture;
use crate::sink::observer::convert;
use crate::sink::proto::flow as proto;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

fn line(record: &GetFlowsResponse) -> Result<String, Error> {
    let mut text = Vec::new();
    write_record(record, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_record_survives_the_round_trip() -> Result<(), Error> {
    for flow in [
        fixture::masqueraded(),
        fixture::through_service(),
        fixture::ping(),
    ] {
        let record = convert::response(&flow);
        assert_eq!(fixture::sorted(read_record(&line(&record)?)?), record);
    }
    Ok(())
}

#[test]
fn a_record_is_one_line_with_the_names_of_the_contract() -> Result<(), Error> {
    let line = line(&convert::response(&fixture::masqueraded()))?;
    assert!(!line.contains('\n'));
    let json: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!(json["node_name"], "node-1");
    assert_eq!(json["time"], "1970-01-01T00:01:40Z");
    let flow = &json["flow"];
    assert_eq!(flow["IP"]["source_xlated"], "10.224.0.4");
    assert_eq!(flow["IP"]["ipVersion"], "IPv4");
    assert_eq!(flow["l4"]["TCP"]["destination_port"], 8080);
    assert_eq!(flow["source"]["pod_name"], "web-0");
    assert_eq!(flow["verdict"], "FORWARDED");
    assert_eq!(flow["Type"], "L3_L4");
    assert_eq!(flow["is_reply"], false);
    assert!(flow["Summary"].is_string());
    let extensions = &flow["extensions"];
    assert_eq!(
        extensions["@type"],
        "type.googleapis.com/google.protobuf.Struct"
    );
    let value = &extensions["value"];
    assert_eq!(value["class"], "pod-to-world");
    assert_eq!(value["nat"]["translated"]["sport"], 60_996);
    // Whole numbers have no fraction, others keep theirs.
    assert!(line.contains("\"packets_total\":5,") || line.contains("\"packets_total\":5}"));
    assert_eq!(value["tcp"]["handshake_rtt_seconds"], 0.0015);
    Ok(())
}

#[test]
fn unknown_fields_are_skipped_and_other_text_is_refused() -> Result<(), Error> {
    let record = read_record(r#"{"node_name":"n","flow":{"verdict":"DROPPED","new":[1]},"x":{}}"#)?;
    assert_eq!(record.node_name, "n");
    for bad in [
        "",
        "{",
        "[]",
        "{} {}",
        r#"{"node_name":7}"#,
        "flow",
        r#"{"time":"noon"}"#,
    ] {
        assert!(read_record(bad).is_err(), "{bad}");
    }
    Ok(())
}

/// The same by way of the descriptors.
fn by_descriptors(record: &GetFlowsResponse) -> Result<serde_json::Value, Error> {
    let mut text = Vec::new();
    write(RECORD, record, &mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[test]
fn records_are_written_as_their_descriptors_say() -> Result<(), Error> {
    let mut flows = vec![
        fixture::masqueraded(),
        fixture::through_service(),
        fixture::ping(),
        fixture::pod_to_pod(),
    ];
    for protocol in [
        Protocol::UDP,
        Protocol::SCTP,
        Protocol::ICMPV6,
        Protocol(99),
    ] {
        let mut flow = fixture::pod_to_pod();
        flow.tuple.protocol = protocol;
        flow.source = Identity::World;
        flows.push(flow);
    }
    for flow in flows {
        let record = convert::response(&flow);
        assert!(flow::Plain::of(&record).is_some());
        let line = line(&record)?;
        let direct: serde_json::Value = serde_json::from_str(&line)?;
        assert_eq!(direct, by_descriptors(&record)?);
    }
    Ok(())
}

/// Records of other servers have more: nothing of them is left out.
#[test]
fn what_the_agent_never_fills_is_written_too() -> Result<(), Error> {
    let filled: [fn(&mut proto::Flow); 6] = [
        |flow| flow.l7 = Some(proto::Layer7::default()),
        |flow| flow.source_names = vec!["example.com".to_owned()],
        |flow| flow.socket_cookie = 1 << 60,
        |flow| flow.egress_denied_by = vec![proto::Policy::default()],
        |flow| flow.verdict = 4711,
        |flow| {
            flow.extensions = Some(prost_types::Any {
                type_url: "type.googleapis.com/flow.Flow".to_owned(),
                value: Vec::new(),
            });
        },
    ];
    for fill in filled {
        let mut record = convert::response(&fixture::masqueraded());
        if let Some(ResponseTypes::Flow(flow)) = &mut record.response_types {
            fill(flow);
        }
        let direct: serde_json::Value = serde_json::from_str(&line(&record)?)?;
        assert_eq!(direct, by_descriptors(&record)?);
    }
    Ok(())
}
