//! Flows from a flow log.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use super::failure::tell;
use crate::sink::json;
use crate::sink::observer::filter::Filters;
use crate::sink::observer::select::Selection;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;
use crate::sink::proto::observer::{GetFlowsRequest, GetFlowsResponse};

/// Lines that are no records are told about one by one up to so many.
const TOLD: u64 = 5;

/// Picks from a file (`-`: standard input) what the request asks for, sorted by time.
///
/// # Errors
/// When the file cannot be read or has no record at all, or a filter cannot be.
pub fn read(file: &Path, request: &GetFlowsRequest) -> anyhow::Result<Vec<GetFlowsResponse>> {
    let refused = |status: tonic::Status| anyhow!("{}", status.message());
    let selection = Selection::of(request).map_err(refused)?;
    let filters = Filters::compile(request)?;
    let name = file.display();
    let reader: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let opened = File::open(file);
        Box::new(BufReader::new(
            opened.with_context(|| format!("flow log {name}"))?,
        ))
    };
    let (mut records, mut bad) = (Vec::new(), 0_u64);
    for (index, line) in reader.split(b'\n').enumerate() {
        let line = line.with_context(|| format!("flow log {name}"))?;
        let line = String::from_utf8_lossy(&line);
        if line.trim().is_empty() {
            continue;
        }
        match json::read_record(&line) {
            Ok(record) => records.push(record),
            Err(error) => {
                bad += 1;
                if bad <= TOLD {
                    tell(&format_args!(
                        "flow log {name}:{}: no flow record ({error})",
                        index + 1
                    ));
                }
            }
        }
    }
    if bad > TOLD {
        tell(&format_args!(
            "flow log {name}: {bad} lines are no flow records"
        ));
    }
    if records.is_empty() && bad > 0 {
        bail!("flow log {name}: has no flow record: give a file that `--flow-log` wrote");
    }
    records.sort_by_key(|record| record.time.map(|time| (time.seconds, time.nanos)));
    Ok(selection.pick(records.into_iter(), |record| {
        let Some(ResponseTypes::Flow(flow)) = &record.response_types else {
            return None;
        };
        filters.pass(flow).then_some(record)
    }))
}
