//! The JSON form, there and back.

use super::*;
use crate::sink::fixture;
use crate::sink::observer::convert;

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
