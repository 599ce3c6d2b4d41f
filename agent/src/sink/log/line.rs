//! A record as a line of bounded length.

use crate::sink::json;
use crate::sink::observer::structs::{self, IntoValue as _, put};
use crate::sink::proto::flow::Flow;
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// Length that no line with its end exceeds, in bytes: what a reader takes that has a buffer of
/// 64 KiB for a line, such as Go's `bufio.Scanner` (its `MaxScanTokenSize`).
pub const LONGEST: usize = 64 * 1024 - 1;

/// Why a record has no line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no JSON form.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// It is too long even without what can be left out.
    #[error("{0} bytes are more than a line of 64 KiB")]
    TooLong(usize),
}

/// A name of what can be left out of a record, and how.
type Spared = (&'static str, fn(&mut Flow));

/// What a record that is too long is written without, in this order, until it fits.
const SPARED: [Spared; 4] = [
    ("labels", |flow| {
        for end in [&mut flow.source, &mut flow.destination] {
            end.iter_mut().for_each(|end| end.labels.clear());
        }
    }),
    ("names", |flow| {
        flow.source_names.clear();
        flow.destination_names.clear();
    }),
    ("hops", |flow| remove(flow, "hops")),
    ("drop", |flow| remove(flow, "drop")),
];

/// Appends a record with its line end to `out`, or nothing. The extension of a record that was
/// too long says in `left_out` what it is written without.
pub fn write(mut record: GetFlowsResponse, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let mut spared = SPARED.into_iter();
    let mut left_out = Vec::new();
    loop {
        let written = json::write_record(&record, out);
        out.push(b'\n');
        let length = out.len() - start;
        if written.is_ok() && length <= LONGEST {
            return Ok(());
        }
        out.truncate(start);
        written?;
        let (Some((name, spare)), Some(ResponseTypes::Flow(flow))) =
            (spared.next(), &mut record.response_types)
        else {
            return Err(Error::TooLong(length));
        };
        spare(flow);
        left_out.push(name.into_value());
        let mut fields = extension(flow);
        put(&mut fields, "left_out", left_out.clone());
        flow.extensions = Some(structs::pack(fields));
    }
}

fn extension(flow: &Flow) -> structs::Fields {
    let extensions = flow.extensions.as_ref();
    extensions.and_then(structs::unpack).unwrap_or_default()
}

fn remove(flow: &mut Flow, key: &str) {
    let mut fields = extension(flow);
    fields.remove(key);
    flow.extensions = Some(structs::pack(fields));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::fixture::masqueraded;
    use crate::sink::observer::convert;

    type Tested = anyhow::Result<()>;

    fn with_labels(count: usize) -> GetFlowsResponse {
        let mut record = convert::response(&masqueraded());
        if let Some(ResponseTypes::Flow(flow)) = &mut record.response_types {
            let source = flow.source.get_or_insert_default();
            source.labels = (0..count)
                .map(|number| format!("k8s:{number:060}={number:060}"))
                .collect();
        }
        record
    }

    #[test]
    fn a_record_that_is_too_long_is_written_without_its_labels() -> Tested {
        let mut out = b"before\n".to_vec();
        write(with_labels(1000), &mut out)?;
        let text = String::from_utf8(out)?;
        let Some(line) = text.strip_prefix("before\n") else {
            panic!("{text}");
        };
        assert!(line.len() <= LONGEST, "{}", line.len());
        let read = json::read_record(line)?;
        let Some(ResponseTypes::Flow(flow)) = read.response_types else {
            panic!("no flow: {line}");
        };
        assert_eq!(flow.source.map(|source| source.labels), Some(Vec::new()));
        let fields = flow.extensions.as_ref().and_then(structs::unpack);
        let fields = fields.unwrap_or_default();
        let left_out = structs::list(&fields, &["left_out"]);
        assert_eq!(left_out, ["labels".into_value()]);
        assert!(!structs::list(&fields, &["hops"]).is_empty());
        Ok(())
    }

    #[test]
    fn one_that_fits_is_written_as_it_is() -> Tested {
        let (record, mut out, mut whole) = (with_labels(100), Vec::new(), Vec::new());
        json::write_record(&record, &mut whole)?;
        write(record, &mut out)?;
        assert_eq!(out.len(), whole.len() + 1);
        Ok(())
    }

    #[test]
    fn what_cannot_be_shortened_is_an_error_and_leaves_no_trace() {
        let mut record = with_labels(0);
        record.node_name = "n".repeat(70_000);
        let mut out = Vec::new();
        assert!(matches!(
            write(record, &mut out),
            Err(Error::TooLong(length)) if length > 70_000
        ));
        assert!(out.is_empty());
    }
}
