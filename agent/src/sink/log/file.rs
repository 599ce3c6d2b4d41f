//! The file of the flow log and those that it was before: `FILE`, `FILE.1` (the newest), `FILE.2` …

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::{Lines, Lost, Out};

/// When a flow log is rotated, and how many stay.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that no file exceeds.
    pub size: u64,
    /// Files kept beside the current one.
    pub files: u32,
}

/// The files of one flow log. Whatever happens to them, the next lines try anew.
pub struct Files {
    path: PathBuf,
    limits: Limits,
    current: Option<File>,
    /// A failed write left a line without its end, and it could not be cut off.
    unfinished: bool,
    /// Rotation failed, and this was said.
    stuck: bool,
}

impl Files {
    /// Opens the file at `path`, making it if need be.
    pub fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            limits,
            current: Some(open(path)?),
            unfinished: false,
            stuck: false,
        })
    }

    /// The file to write a line of `next` bytes to, and its length; none of one that has no
    /// length, such as a pipe.
    fn ready(&mut self, next: u64) -> io::Result<(&mut File, Option<u64>)> {
        let mut file = match self.current.take() {
            Some(file) if self.has_name(&file.metadata()?) => file,
            // Somebody moved or removed it.
            _ => open(&self.path)?,
        };
        let mut length = length(&file.metadata()?);
        if length.is_some_and(|length| length > 0 && length + next > self.limits.size) {
            match self.rotate() {
                Ok(()) => {
                    self.stuck = false;
                    self.unfinished = false;
                    file = open(&self.path)?;
                    length = Some(0);
                }
                Err(error) if !self.stuck => {
                    self.stuck = true;
                    let file = self.path.display();
                    tracing::error!(%file, %error, "flow log cannot be rotated; it grows on");
                }
                Err(_) => {}
            }
        }
        Ok((self.current.insert(file), length))
    }

    /// Whether the file is still the one that its path leads to.
    fn has_name(&self, file: &Metadata) -> bool {
        let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        fs::metadata(&self.path).is_ok_and(|named| id(&named) == id(file))
    }

    /// Moves every file on by one. Whenever this ends early, no record is gone, and the next time
    /// goes on.
    fn rotate(&self) -> io::Result<()> {
        if self.limits.files == 0 {
            return fs::remove_file(&self.path);
        }
        // Up to the first number that is free; else the oldest file is replaced.
        let mut last = 1;
        while last < self.limits.files && self.numbered(last).try_exists()? {
            last += 1;
        }
        for number in (1..last).rev() {
            fs::rename(self.numbered(number), self.numbered(number + 1))?;
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// Appends lines from `first` on, as many as the file takes; how many. What was written of a
    /// line that did not find room is cut off again.
    fn append(&mut self, lines: &Lines, first: usize) -> Result<usize, (usize, io::Error)> {
        let start = lines.start(first);
        let next = (lines.ends[first] - start) as u64;
        let (limit, mend) = (self.limits.size, std::mem::take(&mut self.unfinished));
        let (file, mut length) = self.ready(next).map_err(|error| (0, error))?;
        if mend {
            if let Err(error) = file.write_all(b"\n") {
                self.unfinished = true;
                return Err((0, error));
            }
            length = length.map(|length| length + 1);
        }
        let room = length.map_or(u64::MAX, |length| limit.saturating_sub(length));
        let end = lines.fitting(first, room);
        let text = &lines.text[start..lines.ends[end - 1]];
        let Err(error) = file.write_all(text) else {
            return Ok(end - first);
        };
        let mended = length.ok_or(io::ErrorKind::NotSeekable.into());
        let mended = mended.and_then(|length| cut(file, length, text));
        self.unfinished = mended.is_err();
        Err((mended.unwrap_or(0), error))
    }
}

impl Out for Files {
    fn write(&mut self, lines: &Lines) -> Result<(), Lost> {
        let count = lines.ends.len();
        let mut done = 0;
        while done < count {
            match self.append(lines, done) {
                Ok(written) => done += written,
                Err((written, error)) => {
                    let lines = count - done - written;
                    return Err(Lost { lines, error });
                }
            }
        }
        Ok(())
    }

    fn reopen(&mut self) {
        // An open file that cannot be opened again is better than none.
        match open(&self.path) {
            Ok(file) => self.current = Some(file),
            Err(error) => {
                let file = self.path.display();
                tracing::error!(%file, %error, "flow log cannot be opened again");
            }
        }
    }
}

/// Of a regular file.
fn length(metadata: &Metadata) -> Option<u64> {
    metadata.is_file().then_some(metadata.len())
}

/// Cuts off what a write of `text` at `start` left unfinished; how many lines stay.
fn cut(file: &File, start: u64, text: &[u8]) -> io::Result<usize> {
    let reached = file.metadata()?.len().saturating_sub(start);
    let reached = usize::try_from(reached).unwrap_or(usize::MAX);
    let there = &text[..reached.min(text.len())];
    let whole = there.iter().rposition(|byte| *byte == b'\n');
    let whole = whole.map_or(0, |at| at + 1);
    file.set_len(start + whole as u64)?;
    Ok(there[..whole]
        .split_inclusive(|byte| *byte == b'\n')
        .count())
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.create(true).read(true).append(true).open(path)?;
    mend(&file)?;
    Ok(file)
}

/// Cuts off the record that an agent was writing when it was killed: it counts as not written.
fn mend(file: &File) -> io::Result<()> {
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
#[path = "file_tests.rs"]
mod tests;
