//! A page for people: tables that fit the terminal, lines between them, colours where there is a
//! terminal that wants them.

use std::io::{self, Write as _};

use super::fit::{self, Column};
use super::output;
use super::row::Tone;
use crate::sink::json;

/// How the reader sees a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether lines are coloured.
    pub colour: bool,
    /// Columns of the terminal; none where nothing is cut: in files, pipes and pagers.
    pub width: Option<usize>,
}

impl Style {
    /// That of standard output.
    pub fn of_stdout() -> Self {
        Self {
            colour: output::colour(),
            width: output::terminal_width(),
        }
    }
}

/// A row of a table.
#[derive(Debug, Default)]
pub struct Entry {
    /// As many as there are columns, or fewer; none for lines between the rows.
    pub cells: Vec<String>,
    /// How it stands out.
    pub tone: Option<Tone>,
    /// Whether only its first cell does, so that what follows is easy to read.
    pub first_only: bool,
    /// Lines right below it.
    pub below: Vec<String>,
}

impl Entry {
    /// A row that does not stand out.
    pub fn new(cells: Vec<String>) -> Self {
        Self {
            cells,
            ..Self::default()
        }
    }

    /// A row that stands out.
    pub fn toned(cells: Vec<String>, tone: Tone) -> Self {
        Self {
            tone: Some(tone),
            ..Self::new(cells)
        }
    }
}

/// The text of a page.
#[derive(Debug)]
pub struct Page {
    style: Style,
    text: String,
}

impl Page {
    /// An empty one.
    pub fn new(style: Style) -> Self {
        Self {
            style,
            text: String::new(),
        }
    }

    /// Adds a line.
    pub fn say(&mut self, line: &str, tone: Tone) {
        self.paint(line, tone);
        self.text.push('\n');
    }

    /// Adds an empty line.
    pub fn gap(&mut self) {
        self.text.push('\n');
    }

    /// Adds a table with its headings.
    pub fn table(&mut self, columns: &[Column], entries: &[Entry]) {
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        let (kept, widths) = self.fit(columns, entries);
        for line in fit::row(columns, &kept, &widths, &names) {
            self.say(&line, Tone::Header);
        }
        self.rows(columns, entries, &kept, &widths);
    }

    /// Adds a table without headings.
    pub fn list(&mut self, columns: &[Column], entries: &[Entry]) {
        let (kept, widths) = self.fit(columns, entries);
        self.rows(columns, entries, &kept, &widths);
    }

    /// Adds lines as they are.
    pub fn lines(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            self.say(&line, Tone::Plain);
        }
    }

    /// Adds messages, named as in their schema, each as a line of JSON, with the fields that are
    /// empty as well.
    ///
    /// # Errors
    /// When one has no JSON form.
    pub fn objects(&mut self, name: &str, messages: &[impl prost::Message]) -> anyhow::Result<()> {
        for message in messages {
            let mut text = Vec::new();
            json::write_whole(name, message, &mut text)?;
            self.say(&String::from_utf8_lossy(&text), Tone::Plain);
        }
        Ok(())
    }

    /// As [`Page::objects`], without the fields that are empty.
    ///
    /// # Errors
    /// When one has no JSON form.
    pub fn sparse_objects(
        &mut self,
        name: &str,
        messages: &[impl prost::Message],
    ) -> anyhow::Result<()> {
        for message in messages {
            let mut text = Vec::new();
            json::write(name, message, &mut text)?;
            self.say(&String::from_utf8_lossy(&text), Tone::Plain);
        }
        Ok(())
    }

    fn fit(&self, columns: &[Column], entries: &[Entry]) -> (Vec<usize>, Vec<usize>) {
        let natural = fit::natural(columns, entries.iter().map(|entry| &entry.cells));
        let width = self.style.width.unwrap_or(usize::MAX);
        let kept = fit::choose(columns, &natural, width);
        let widths = fit::widths(columns, &natural, &kept, width);
        (kept, widths)
    }

    fn rows(&mut self, columns: &[Column], entries: &[Entry], kept: &[usize], widths: &[usize]) {
        for entry in entries {
            let cells: Vec<&str> = entry.cells.iter().map(String::as_str).collect();
            let tone = entry.tone.unwrap_or(Tone::Plain);
            let lines = match cells.is_empty() {
                true => Vec::new(),
                false => fit::row(columns, kept, widths, &cells),
            };
            for (number, line) in lines.iter().enumerate() {
                let first = cells.first().map_or(0, |cell| cell.len());
                match line.split_at_checked(first) {
                    Some((first, rest)) if entry.first_only && number == 0 => {
                        self.paint(first, tone);
                        self.text.push_str(rest);
                        self.text.push('\n');
                    }
                    _ if entry.first_only => self.say(line, Tone::Plain),
                    _ => self.say(line, tone),
                }
            }
            for line in &entry.below {
                self.say(line, Tone::Plain);
            }
        }
    }

    fn paint(&mut self, text: &str, tone: Tone) {
        match tone.sgr() {
            "" => self.text.push_str(text),
            _ if !self.style.colour => self.text.push_str(text),
            code => self.text.push_str(&format!("\x1b[{code}m{text}\x1b[0m")),
        }
    }

    /// What is on it.
    #[cfg(test)]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Prints it.
    ///
    /// # Errors
    /// When the reader is gone.
    pub fn print(&self) -> io::Result<()> {
        put(&self.text)
    }
}

/// Prints a text to standard output.
///
/// # Errors
/// When the reader is gone.
pub fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What stands for nothing.
pub const NONE: &str = "-";

/// A text, or what stands for none.
pub fn or_none(text: &str) -> String {
    if text.is_empty() { NONE } else { text }.to_owned()
}
