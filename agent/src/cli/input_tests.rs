//! Flow logs, good and bad.

use super::*;
use crate::sink::fixture::{masqueraded, ping};
use crate::sink::observer::convert::response;
use crate::sink::proto::flow::FlowFilter;

type Tested = anyhow::Result<()>;

fn log(directory: &Path, garbage: &[u8]) -> anyhow::Result<std::path::PathBuf> {
    let mut text = Vec::new();
    for flow in [masqueraded(), ping()] {
        json::write_record(&response(&flow), &mut text)?;
        text.push(b'\n');
        text.extend_from_slice(garbage);
    }
    let path = directory.join("flows.json");
    std::fs::write(&path, text)?;
    Ok(path)
}

#[test]
fn records_are_filtered_and_bad_lines_are_passed_over() -> Tested {
    let directory = tempfile::tempdir()?;
    let path = log(directory.path(), b"\n{\"flow\":\n\xff\xfe\n")?;
    assert_eq!(read(&path, &GetFlowsRequest::default())?.len(), 2);
    let pings = FlowFilter {
        protocol: vec!["icmp".to_owned()],
        ..FlowFilter::default()
    };
    let request = GetFlowsRequest {
        whitelist: vec![pings],
        ..GetFlowsRequest::default()
    };
    assert_eq!(read(&path, &request)?.len(), 1);
    let last = GetFlowsRequest {
        number: 1,
        ..GetFlowsRequest::default()
    };
    assert_eq!(read(&path, &last)?.len(), 1);
    Ok(())
}

#[test]
fn what_is_no_flow_log_is_an_error() -> Tested {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notes.txt");
    assert!(read(&path, &GetFlowsRequest::default()).is_err());
    std::fs::write(&path, "nothing\nof\nthe kind\n")?;
    let Err(error) = read(&path, &GetFlowsRequest::default()) else {
        panic!("accepted")
    };
    assert!(error.to_string().contains("notes.txt"), "{error}");
    std::fs::write(&path, "")?;
    assert!(read(&path, &GetFlowsRequest::default())?.is_empty());
    Ok(())
}
