//! Standard output: format, colour, columns.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use clap::ValueEnum;

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
    text: Vec<u8>,
}

/// Whether standard output is a terminal that is to show colour (no-color.org).
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
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
        if !std::mem::replace(&mut self.headed, true) {
            let header = self.table.line(Row::header(wide));
            self.line(&header, Tone::Header)?;
        }
        for row in &rows {
            let line = self.table.line(&row.cells(wide));
            self.line(&line, row.tone)?;
        }
        Ok(())
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
