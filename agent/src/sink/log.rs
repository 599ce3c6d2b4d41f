//! The flow log: one JSON record a line, to a file or standard output.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::json;
use super::observer::convert;
use crate::engine::Settle;
use crate::flow::Flow;

/// Flows that wait for the writer; more are counted as lost.
pub const QUEUE: usize = 16_384;

/// Flows written at once.
const PORTION: usize = 512;

/// A flow log that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("flow log {path}: {source}: give a --flow-log that can be written to, or `-`")]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// Where flows are handed in.
#[derive(Clone)]
pub struct FlowLog {
    queue: mpsc::Sender<Arc<Flow>>,
    lost: Arc<AtomicU64>,
    settle: Settle,
}

/// The task that writes.
pub struct Writer {
    task: JoinHandle<()>,
}

impl FlowLog {
    /// Opens `path` (`-` is standard output) to append to, and starts the writer, which tells
    /// `settle` of what it has written.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, settle: Settle) -> Result<(Self, Writer), Error> {
        let out: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .read(true)
                .append(true)
                .open(path);
            let file = file.and_then(|file| mend(&file).map(|()| file));
            Box::new(file.map_err(|source| Error {
                path: path.to_owned(),
                source,
            })?)
        };
        Ok(Self::start(out, settle))
    }

    /// Starts a writer to `out`.
    pub fn start(out: Box<dyn Write + Send>, settle: Settle) -> (Self, Writer) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let (counter, written) = (Arc::clone(&lost), settle.clone());
        // A disk that hangs must hold up nobody else, hence a thread of its own.
        let task = tokio::task::spawn_blocking(move || write_all(waiting, out, &counter, &written));
        let log = Self {
            queue,
            lost,
            settle,
        };
        (log, Writer { task })
    }

    /// Hands in flows; never waits. What does not fit is counted.
    pub fn push(&self, flows: impl IntoIterator<Item = Arc<Flow>>) {
        let lost: Vec<_> = flows
            .into_iter()
            .filter(|flow| self.queue.try_send(Arc::clone(flow)).is_err())
            .collect();
        if !lost.is_empty() {
            self.lost.fetch_add(lost.len() as u64, Ordering::Relaxed);
            // Counted as lost: not to be told by anybody.
            self.settle.told(&lost);
        }
    }

    /// How many more can be handed in now.
    pub fn room(&self) -> usize {
        self.queue.capacity()
    }

    /// Flows that are not in the log, because the queue was full or writing failed.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Writer {
    /// Waits until all is written, after the last [`FlowLog`] is dropped.
    pub async fn finish(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "flow log writer ended early");
        }
    }
}

fn write_all(
    mut waiting: mpsc::Receiver<Arc<Flow>>,
    mut out: Box<dyn Write + Send>,
    lost: &AtomicU64,
    settle: &Settle,
) {
    let mut portion = Vec::with_capacity(PORTION);
    let mut text = Vec::new();
    let mut failing = false;
    while waiting.blocking_recv_many(&mut portion, PORTION) > 0 {
        text.clear();
        if failing {
            // Ends the line that the failed write may have left unfinished.
            text.push(b'\n');
        }
        let mut lines = 0;
        for flow in &portion {
            let start = text.len();
            match json::write_record(&convert::response(flow), &mut text) {
                Ok(()) => {
                    text.push(b'\n');
                    lines += 1;
                }
                Err(error) => {
                    text.truncate(start);
                    lost.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "flow record has no JSON form");
                }
            }
        }
        let written = out.write_all(&text).and_then(|()| out.flush());
        if let Err(error) = &written {
            lost.fetch_add(lines, Ordering::Relaxed);
            // Once, not once a portion.
            if !failing {
                tracing::error!(%error, "flow log cannot be written; flows are counted as lost");
            }
        } else if failing {
            tracing::info!("flow log is written again");
        }
        failing = written.is_err();
        // Written or counted as lost.
        settle.told(&portion);
        portion.clear();
    }
}

/// Cuts off the record that an agent was writing when it was killed: it counts as not written.
fn mend(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    /// Longer than any record.
    const LONGEST: u64 = 1 << 20;
    /// How records begin.
    const RECORD: &[u8] = b"{\"";
    let metadata = file.metadata()?;
    let length = metadata.len();
    if !metadata.is_file() || length == 0 {
        return Ok(());
    }
    let start = length.saturating_sub(LONGEST);
    let mut tail = vec![0; usize::try_from(length - start).unwrap_or_default()];
    file.read_exact_at(&mut tail, start)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n');
    let end = whole.map_or(0, |at| at + 1);
    let left = &tail[end..];
    if left.starts_with(RECORD) && (whole.is_some() || start == 0) {
        file.set_len(start + end as u64)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
