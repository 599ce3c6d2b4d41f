//! Standard output: format, colour, columns.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use clap::ValueEnum;

use super::fit;
use super::row::{Row, Tone};
use super::table::Table;
use super::time;
use crate::sink::json;
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// One JSON object a line: the record of the flow log
    Json,
    /// One short line a flow
    Compact,
}

/// Prints responses.
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
    colour: bool,
    table: Table,
    headed: bool,
    /// Columns of the terminal; none where the output is no terminal, and nothing is cut.
    width: Option<usize>,
    /// Places of the columns that are shown, once the header was.
    kept: Vec<usize>,
    text: Vec<u8>,
}

/// Whether standard output is a terminal that is to show colour (no-color.org).
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns of the terminal that standard output is.
fn terminal_width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width.0)).filter(|width| *width > 0)
}

impl Output {
    /// To standard output.
    pub fn new(format: Format) -> Self {
        Self {
            out: BufWriter::new(io::stdout().lock()),
            format,
            colour: colour(),
            table: Table::default(),
            headed: false,
            width: terminal_width(),
            kept: Vec::new(),
            text: Vec::new(),
        }
    }

    /// Prints what belongs together and passes it on to the reader.
    ///
    /// # Errors
    /// When the reader is gone.
    pub fn print(&mut self, responses: &[GetFlowsResponse]) -> anyhow::Result<()> {
        match self.format {
            Format::Json => self.json(responses)?,
            Format::Compact => self.compact(responses)?,
            Format::Table => self.columns(responses, false)?,
            Format::Wide => self.columns(responses, true)?,
        }
        Ok(self.out.flush()?)
    }

    fn json(&mut self, responses: &[GetFlowsResponse]) -> anyhow::Result<()> {
        for response in responses {
            self.text.clear();
            json::write_record(response, &mut self.text)?;
            self.text.push(b'\n');
            self.out.write_all(&self.text)?;
        }
        Ok(())
    }

    fn compact(&mut self, responses: &[GetFlowsResponse]) -> anyhow::Result<()> {
        for response in responses {
            let Some(ResponseTypes::Flow(flow)) = &response.response_types else {
                continue;
            };
            let row = Row::new(response, flow);
            let time = time::long(response.time.as_ref());
            let line = format!(
                "{time} {}: {} -> {} {} {} ({})",
                row.node, row.source, row.destination, row.class, row.verdict, flow.summary
            );
            self.line(&line, row.tone)?;
        }
        Ok(())
    }

    fn columns(&mut self, responses: &[GetFlowsResponse], wide: bool) -> anyhow::Result<()> {
        let mut rows = Vec::with_capacity(responses.len());
        for response in responses {
            if let Some(ResponseTypes::Flow(flow)) = &response.response_types {
                rows.push(Row::new(response, flow));
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        for row in &rows {
            self.table.fit(&row.cells(wide));
        }
        let header = Row::header(wide);
        self.table.fit(header);
        let mut lines = Table::default();
        if !std::mem::replace(&mut self.headed, true) {
            let all = || (0..header.len()).collect();
            let natural = self.table.widths();
            let fitting = self.width.map(|width| fit::choose(header, natural, width));
            self.kept = fitting.unwrap_or_else(all);
            let line = self.cut(&mut lines, header);
            self.line(&line, Tone::Header)?;
        }
        for row in &rows {
            let line = self.cut(&mut lines, &row.cells(wide));
            self.line(&line, row.tone)?;
        }
        Ok(())
    }

    /// A line of the columns that are shown, names shortened to what the terminal has room for.
    fn cut(&self, lines: &mut Table, cells: &[&str]) -> String {
        let natural = self.table.widths();
        let header = Row::header(cells.len() > Row::header(false).len());
        let widths = match self.width {
            Some(width) => fit::widths(header, natural, &self.kept, width),
            None => self.kept.iter().map(|place| natural[*place]).collect(),
        };
        let blank: Vec<String> = widths.iter().map(|width| " ".repeat(*width)).collect();
        lines.fit(&blank);
        let shown = self.kept.iter().zip(&widths);
        let shown: Vec<_> = shown
            .map(|(place, width)| fit::shorten(cells[*place], *width))
            .collect();
        lines.line(&shown)
    }

    fn line(&mut self, line: &str, tone: Tone) -> io::Result<()> {
        let code = if self.colour { tone.sgr() } else { "" };
        if code.is_empty() {
            writeln!(self.out, "{line}")
        } else {
            writeln!(self.out, "\x1b[{code}m{line}\x1b[0m")
        }
    }
}
