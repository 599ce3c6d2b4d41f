//! Standard output: format, colour, columns.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use clap::ValueEnum;

use super::fit;
use super::page::Style;
use super::row::{Row, Tone};
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
    /// One JSON object a line
    Json,
    /// One short line each
    Compact,
}

/// Prints responses.
pub struct Output<W: Write = BufWriter<StdoutLock<'static>>> {
    out: W,
    format: Format,
    style: Style,
    /// The widest cell of each column until now.
    natural: Vec<usize>,
    /// Places of the columns that are shown, once the header was.
    kept: Option<Vec<usize>>,
    text: Vec<u8>,
}

/// Whether standard output is a terminal that is to show colour (no-color.org).
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns of the terminal that standard output is.
pub fn terminal_width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width.0)).filter(|width| *width > 0)
}

impl Output {
    /// To standard output.
    pub fn new(format: Format) -> Self {
        Self::to(
            BufWriter::new(io::stdout().lock()),
            format,
            Style::of_stdout(),
        )
    }
}

impl<W: Write> Output<W> {
    /// To a writer.
    pub fn to(out: W, format: Format, style: Style) -> Self {
        Self {
            out,
            format,
            style,
            natural: Vec::new(),
            kept: None,
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
        let columns = Row::columns(wide);
        let widest = fit::natural(columns, rows.iter().map(|row| row.cells(wide)));
        self.natural.resize(widest.len(), 0);
        for (known, width) in self.natural.iter_mut().zip(widest) {
            *known = width.max(*known);
        }
        let width = self.style.width.unwrap_or(usize::MAX);
        let headed = self.kept.is_some();
        let kept = self
            .kept
            .take()
            .unwrap_or_else(|| fit::choose(columns, &self.natural, width));
        let widths = fit::widths(columns, &self.natural, &kept, width);
        if !headed {
            let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
            for line in fit::row(columns, &kept, &widths, &names) {
                self.line(&line, Tone::Header)?;
            }
        }
        for row in &rows {
            for line in fit::row(columns, &kept, &widths, &row.cells(wide)) {
                self.line(&line, row.tone)?;
            }
        }
        self.kept = Some(kept);
        Ok(())
    }

    fn line(&mut self, line: &str, tone: Tone) -> io::Result<()> {
        let code = if self.style.colour { tone.sgr() } else { "" };
        if code.is_empty() {
            writeln!(self.out, "{line}")
        } else {
            writeln!(self.out, "\x1b[{code}m{line}\x1b[0m")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::same;
    use super::*;
    use crate::sink::fixture::{masqueraded, ping, pod_to_pod, through_service};
    use crate::sink::observer::convert::response;

    #[test]
    fn flows_in_every_format() -> anyhow::Result<()> {
        let flows = [pod_to_pod(), masqueraded(), through_service(), ping()];
        let responses: Vec<_> = flows.iter().map(response).collect();
        let plain = Style::default();
        let coloured = Style {
            colour: true,
            width: Some(100),
        };
        for (name, format, style) in [
            ("table", Format::Table, plain),
            ("wide", Format::Wide, plain),
            ("json", Format::Json, plain),
            ("compact", Format::Compact, plain),
            ("coloured", Format::Wide, coloured),
        ] {
            let mut text = Vec::new();
            let mut output = Output::to(&mut text, format, style);
            output.print(&responses[..2])?;
            output.print(&responses[2..])?;
            drop(output);
            same(&format!("observe-{name}"), &String::from_utf8(text)?);
        }
        Ok(())
    }
}
