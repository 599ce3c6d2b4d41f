//! Aligned columns.

/// Columns that line up, and widen when a later cell needs it.
#[derive(Debug, Default)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Widens the columns to hold a row; done for all rows that are known before the first is
    /// printed.
    pub fn fit<S: AsRef<str>>(&mut self, cells: &[S]) {
        self.widths.resize(self.widths.len().max(cells.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.as_ref().chars().count());
        }
    }

    /// Widths of the columns until now, in characters.
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// A row as a line, without a line end.
    pub fn line<S: AsRef<str>>(&mut self, cells: &[S]) -> String {
        self.fit(cells);
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            let cell = cell.as_ref();
            line.push_str(cell);
            let missing = width.saturating_sub(cell.chars().count()) + 2;
            line.extend(std::iter::repeat_n(' ', missing));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up_and_widen() {
        let mut table = Table::default();
        table.fit(&["a", "bbb"]);
        assert_eq!(table.line(&["NAME", "B", "C"]), "NAME  B    C");
        assert_eq!(table.line(&["ü", "b", "c"]), "ü     b    c");
        assert_eq!(table.line(&["longer", "", ""]), "longer");
    }
}
