//! The flow log: one JSON record a line, to a file that rotates or to standard output.
//!
//! A record counts as told, so that a restarted agent does not tell it again, when it is written,
//! when a filter leaves it out, and when it is lost (a full queue, a full disk): lost is counted,
//! and a gap in a log that could not be written is not made good by later records.

mod choice;
mod file;
pub(super) mod line;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use self::choice::Choice;
use self::file::Files;
pub use self::file::Limits;
pub use self::line::LONGEST;
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

/// What the writer is handed.
enum Entry {
    Flow(Arc<Flow>),
    Reopen,
}

/// Where flows are handed in.
#[derive(Clone)]
pub struct FlowLog {
    queue: mpsc::Sender<Entry>,
    lost: Arc<AtomicU64>,
    settle: Settle,
}

/// Has the writer open its file anew; it does not keep the log alive.
pub struct Reopener(mpsc::WeakSender<Entry>);

/// The task that writes.
pub struct Writer {
    task: JoinHandle<()>,
}

/// Portions of lines, one after the other; `ends` has the end of each in `text`.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    ends: Vec<usize>,
}

/// Lines that are not written: how many, and why.
struct Lost {
    lines: usize,
    error: io::Error,
}

/// Where lines go to.
trait Out: Send {
    /// Writes lines, whole or not at all.
    fn write(&mut self, lines: &Lines) -> Result<(), Lost>;

    /// Lets go of the file, and opens what now has its name.
    fn reopen(&mut self) {}
}

impl FlowLog {
    /// Opens `path` (`-` is standard output) to append to, and starts the writer, which tells
    /// `settle` of what it has dealt with.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(
        path: &Path,
        limits: Limits,
        choice: Choice,
        settle: Settle,
    ) -> Result<(Self, Writer), Error> {
        let out: Box<dyn Out> = if path == Path::new("-") {
            Box::new(Stream::new(Box::new(io::stdout())))
        } else {
            let files = Files::open(path, limits).map_err(|source| Error {
                path: path.to_owned(),
                source,
            })?;
            Box::new(files)
        };
        Ok(Self::start(out, choice, settle))
    }

    /// Starts a writer to `out`.
    fn start(out: Box<dyn Out>, choice: Choice, settle: Settle) -> (Self, Writer) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let (counter, written) = (Arc::clone(&lost), settle.clone());
        // A disk that hangs must hold up nobody else, hence a thread of its own.
        let task = tokio::task::spawn_blocking(move || {
            write_all(waiting, out, &choice, &counter, &written);
        });
        let log = Self {
            queue,
            lost,
            settle,
        };
        (log, Writer { task })
    }

    /// Hands in flows; never waits. What does not fit is counted.
    pub fn push(&self, flows: impl IntoIterator<Item = Arc<Flow>>) {
        let full = |flow: &Arc<Flow>| self.queue.try_send(Entry::Flow(Arc::clone(flow))).is_err();
        let lost: Vec<_> = flows.into_iter().filter(full).collect();
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

    /// For whoever hears that the file was moved.
    pub fn reopener(&self) -> Reopener {
        Reopener(self.queue.downgrade())
    }
}

impl Reopener {
    /// Has the file opened anew behind what was handed in before; false when the log is closed.
    pub async fn reopen(&self) -> bool {
        match self.0.upgrade() {
            Some(queue) => queue.send(Entry::Reopen).await.is_ok(),
            None => false,
        }
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
    mut waiting: mpsc::Receiver<Entry>,
    mut out: Box<dyn Out>,
    choice: &Choice,
    lost: &AtomicU64,
    settle: &Settle,
) {
    let mut entries = Vec::with_capacity(PORTION);
    let mut portion = Vec::with_capacity(PORTION);
    let mut lines = Lines::default();
    let mut failing = false;
    while waiting.blocking_recv_many(&mut entries, PORTION) > 0 {
        lines.clear();
        for entry in entries.drain(..) {
            match entry {
                Entry::Flow(flow) => portion.push(flow),
                Entry::Reopen => out.reopen(),
            }
        }
        for flow in &portion {
            let record = convert::response(flow);
            if !choice.takes(&record) {
                continue;
            }
            if let Err(error) = lines.add(record) {
                lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "flow record has no line");
            }
        }
        if !lines.ends.is_empty() {
            let written = out.write(&lines);
            if let Err(Lost { lines, error }) = &written {
                lost.fetch_add(*lines as u64, Ordering::Relaxed);
                // Once, not once a portion.
                if !failing {
                    tracing::error!(%error, "flow log cannot be written; flows are counted as lost");
                }
            } else if failing {
                tracing::info!("flow log is written again");
            }
            failing = written.is_err();
        }
        // Written, left out or counted as lost.
        settle.told(&portion);
        portion.clear();
    }
}

impl Lines {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// Adds the line of a record, or nothing.
    fn add(&mut self, record: super::proto::observer::GetFlowsResponse) -> Result<(), line::Error> {
        line::write(record, &mut self.text)?;
        self.ends.push(self.text.len());
        Ok(())
    }

    /// Where line `index` starts.
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// The end of the lines from `first` on that fit into `room` bytes; of one at least.
    fn fitting(&self, first: usize, room: u64) -> usize {
        let start = self.start(first);
        let fits = |end: &&usize| (**end - start) as u64 <= room;
        first + self.ends[first..].iter().take_while(fits).count().max(1)
    }
}

/// Standard output: written to as it is.
struct Stream {
    out: Box<dyn Write + Send>,
    /// A write failed, and may have left a line without its end.
    unfinished: bool,
}

impl Stream {
    fn new(out: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            unfinished: false,
        }
    }
}

impl Out for Stream {
    fn write(&mut self, lines: &Lines) -> Result<(), Lost> {
        let mend: &[u8] = if self.unfinished { b"\n" } else { b"" };
        let written = self.out.write_all(mend);
        let written = written.and_then(|()| self.out.write_all(&lines.text));
        let written = written.and_then(|()| self.out.flush());
        self.unfinished = written.is_err();
        written.map_err(|error| Lost {
            lines: lines.ends.len(),
            error,
        })
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
