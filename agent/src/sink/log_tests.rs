//! What is in the flow log, and what is not.

use std::sync::mpsc as std_mpsc;

use super::*;
use crate::sink::fixture::{masqueraded, ping, sorted};
use crate::sink::json;

type Tested = anyhow::Result<()>;

fn open(path: &Path) -> Result<(FlowLog, Writer), Error> {
    let limits = Limits {
        size: 1 << 20,
        files: 1,
    };
    FlowLog::open(path, limits, Choice::default(), Settle::default())
}

#[tokio::test]
async fn one_record_a_line_appended_to_what_is_there() -> Tested {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("flows.json");
    for flow in [masqueraded(), ping()] {
        let (log, writer) = open(&path)?;
        log.push([Arc::new(flow)]);
        assert_eq!(log.lost(), 0);
        drop(log);
        writer.finish().await;
    }
    let text = std::fs::read_to_string(&path)?;
    assert!(text.ends_with('\n'));
    let records = text
        .lines()
        .map(json::read_record)
        .collect::<Result<Vec<_>, _>>()?;
    let records: Vec<_> = records.into_iter().map(sorted).collect();
    assert_eq!(
        records,
        [masqueraded(), ping()].map(|flow| convert::response(&flow))
    );
    Ok(())
}

#[test]
fn a_file_that_cannot_be_opened_is_named_with_the_mend() {
    let Err(error) = open(Path::new("/nowhere/flows.json")) else {
        panic!("opened a file in a directory that is not there");
    };
    let text = error.to_string();
    assert!(
        text.contains("/nowhere/flows.json") && text.contains("--flow-log"),
        "{text}"
    );
}

/// A disk that is full for its first write, which it breaks off in the middle.
struct FullOnce {
    full: bool,
    written: std_mpsc::Sender<Vec<u8>>,
}

impl Write for FullOnce {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.full {
            self.full = false;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.written
            .send(bytes.to_vec())
            .map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_failed_write_is_counted_and_the_next_one_starts_a_new_line() -> Tested {
    let (written, lines) = std_mpsc::channel();
    let (log, writer) = FlowLog::start(
        Box::new(Stream::new(Box::new(FullOnce {
            full: true,
            written,
        }))),
        Choice::default(),
        Settle::default(),
    );
    let counter = log.clone();
    log.push([Arc::new(ping())]);
    // The first portion has to be over before the second is handed in.
    while counter.lost() == 0 {
        tokio::task::yield_now().await;
    }
    log.push([Arc::new(ping())]);
    drop((log, counter));
    writer.finish().await;
    let text = String::from_utf8(lines.iter().flatten().collect())?;
    assert!(text.starts_with("\n{") && text.ends_with("}\n"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_record_that_was_being_written_is_cut_off() -> Tested {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("flows.json");
    let (log, writer) = open(&path)?;
    log.push([Arc::new(ping())]);
    drop(log);
    writer.finish().await;
    let whole = std::fs::read(&path)?;
    for cut in [1, 20, whole.len() - 1] {
        let mut text = whole.clone();
        text.extend_from_slice(&whole[..cut]);
        std::fs::write(&path, &text)?;
        drop(open(&path)?);
        let left = std::fs::read(&path)?;
        // One byte alone may be anybody's.
        assert_eq!(left.len(), if cut == 1 { text.len() } else { whole.len() });
    }
    Ok(())
}
