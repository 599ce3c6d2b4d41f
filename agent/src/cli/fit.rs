//! Columns that fit a terminal: names are shortened in their middle, and where that is not enough
//! columns are left out, the least telling first.

use std::borrow::Cow;

/// Spaces between two columns.
const GAP: usize = 2;

/// What stands for what was left out.
const ELLIPSIS: char = '…';

/// A sentence in the last column gets at least so much room, or begins a line of its own.
const SENTENCE: usize = 24;

/// A column, and what becomes of it where there is little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// How narrow it may become: its cells are still told apart by both their ends.
    least: Option<usize>,
    /// When it is left out: 1 goes first; none stays.
    leave: Option<u8>,
    /// Whether it is the last and holds sentences, which go on in the next line.
    wraps: bool,
}

impl Column {
    /// One that stays, whole.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            least: None,
            leave: None,
            wraps: false,
        }
    }

    /// One whose cells may be shortened to so many characters.
    #[must_use]
    pub const fn cut(mut self, least: usize) -> Self {
        self.least = Some(least);
        self
    }

    /// One that is left out, those with a small number first.
    #[must_use]
    pub const fn leave(mut self, order: u8) -> Self {
        self.leave = Some(order);
        self
    }

    /// The last one, of sentences.
    #[must_use]
    pub const fn wrap(mut self) -> Self {
        self.wraps = true;
        self
    }
}

/// The columns to show, by place, so that they fit into `width` when names are shortened.
/// `natural` are their widths with all names whole.
pub fn choose(columns: &[Column], natural: &[usize], width: usize) -> Vec<usize> {
    let narrow = |place: &usize| {
        let column = columns[*place];
        let least = if column.wraps {
            Some(SENTENCE)
        } else {
            column.least
        };
        least.map_or(natural[*place], |least| natural[*place].min(least))
    };
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    while total(kept.iter().map(narrow)) > width {
        let leaves = |place: &&usize| columns[**place].leave.is_some();
        let first = kept
            .iter()
            .filter(leaves)
            .min_by_key(|place| columns[**place].leave);
        let Some(first) = first.copied() else {
            break;
        };
        kept.retain(|place| *place != first);
    }
    kept
}

/// Widths for the columns that are shown: natural ones, the widest of the names cut down until
/// all fit, or no name can be cut further. A sentence takes what the others leave.
pub fn widths(columns: &[Column], natural: &[usize], kept: &[usize], width: usize) -> Vec<usize> {
    let mut widths: Vec<usize> = kept.iter().map(|place| natural[*place]).collect();
    let mut surplus = total(widths.iter().copied()).saturating_sub(width);
    let sentence = kept.last().is_some_and(|place| columns[*place].wraps);
    if let (true, Some(last)) = (sentence, widths.last_mut()) {
        let given = last.saturating_sub(SENTENCE).min(surplus);
        *last -= given;
        surplus -= given;
    }
    while surplus > 0 {
        let can = kept.iter().enumerate().filter_map(|(index, place)| {
            let least = columns[*place].least?;
            (widths[index] > least).then_some((widths[index], index))
        });
        let Some((_, widest)) = can.max() else {
            break;
        };
        widths[widest] -= 1;
        surplus -= 1;
    }
    widths
}

fn total(widths: impl Iterator<Item = usize>) -> usize {
    let (sum, count) = widths.fold((0, 0), |(sum, count), width| (sum + width, count + 1));
    sum + GAP * usize::saturating_sub(count, 1)
}

/// A text in at most `width` characters: its beginning and its end, the end a little longer, for
/// ports are there.
pub fn shorten(text: &str, width: usize) -> Cow<'_, str> {
    let length = text.chars().count();
    if length <= width {
        return Cow::Borrowed(text);
    }
    let room = width.saturating_sub(1);
    let (front, back) = (room / 2, room - room / 2);
    let head = text.chars().take(front);
    let tail = text.chars().skip(length - back);
    Cow::Owned(head.chain([ELLIPSIS]).chain(tail).collect())
}

/// A sentence in lines of at most `width` characters, broken at blanks; a longer word is a line.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The lines of a row: cells padded to their columns' widths, the last one wrapped where it holds
/// sentences, all others shortened.
pub fn row(columns: &[Column], kept: &[usize], widths: &[usize], cells: &[&str]) -> Vec<String> {
    let mut line = String::new();
    let mut more = Vec::new();
    let mut before = 0;
    for (place, width) in kept.iter().zip(widths) {
        let cell = cells.get(*place).copied().unwrap_or_default();
        let mut shown = shorten(cell, *width);
        if columns[*place].wraps {
            let mut parts = wrap(cell, *width).into_iter();
            shown = Cow::Owned(parts.next().unwrap_or_default());
            more.extend(parts);
        } else {
            before += width + GAP;
        }
        line.push_str(&shown);
        let missing = width.saturating_sub(shown.chars().count()) + GAP;
        line.extend(std::iter::repeat_n(' ', missing));
    }
    line.truncate(line.trim_end().len());
    let indent = " ".repeat(before);
    let rest = more.into_iter().map(|part| format!("{indent}{part}"));
    std::iter::once(line).chain(rest).collect()
}

/// The widest cell of each column.
pub fn natural<S: AsRef<str>>(
    columns: &[Column],
    rows: impl Iterator<Item = impl AsRef<[S]>>,
) -> Vec<usize> {
    let mut natural: Vec<usize> = columns
        .iter()
        .map(|column| column.name.chars().count())
        .collect();
    for row in rows {
        for (width, cell) in natural.iter_mut().zip(row.as_ref()) {
            *width = (*width).max(cell.as_ref().chars().count());
        }
    }
    natural
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 6] = [
        Column::new("TIME(UTC)"),
        Column::new("NODE").cut(12).leave(3),
        Column::new("SOURCE").cut(20),
        Column::new("DESTINATION").cut(20),
        Column::new("CLASS").leave(2),
        Column::new("EVENT").leave(1),
    ];
    const NATURAL: [usize; 6] = [12, 33, 40, 60, 12, 6];

    fn fitted(width: usize) -> (Vec<&'static str>, usize) {
        let kept = choose(&COLUMNS, &NATURAL, width);
        let widths = widths(&COLUMNS, &NATURAL, &kept, width);
        let names = kept.iter().map(|place| COLUMNS[*place].name).collect();
        (names, total(widths.into_iter()))
    }

    #[test]
    fn what_fits_is_whole() {
        let all = COLUMNS.map(|column| column.name).to_vec();
        assert_eq!(fitted(173), (all.clone(), 173));
        assert_eq!(fitted(500), (all, 173));
    }

    #[test]
    fn names_are_shortened_before_columns_are_left_out() {
        let all = COLUMNS.map(|column| column.name).to_vec();
        assert_eq!(fitted(120), (all.clone(), 120));
        assert_eq!(fitted(92), (all, 92));
        let (names, width) = fitted(91);
        assert_eq!(
            names,
            ["TIME(UTC)", "NODE", "SOURCE", "DESTINATION", "CLASS"]
        );
        assert_eq!(width, 91);
        assert_eq!(fitted(60).0, ["TIME(UTC)", "SOURCE", "DESTINATION"]);
    }

    #[test]
    fn what_cannot_be_made_to_fit_is_as_narrow_as_can_be() {
        assert_eq!(fitted(10), (vec!["TIME(UTC)", "SOURCE", "DESTINATION"], 56));
        assert_eq!(fitted(0).1, 56);
    }

    #[test]
    fn the_middle_is_what_goes() {
        assert_eq!(
            shorten("aks-nodepool1-11743156-vmss000000", 14),
            "aks-no…s000000"
        );
        assert_eq!(
            shorten("default/web-7f9c:8080", 21),
            "default/web-7f9c:8080"
        );
        assert_eq!(shorten("grün-grün", 5), "gr…ün");
        assert_eq!(shorten("abc", 1), "…");
        assert_eq!(shorten("abc", 0), "…");
    }

    #[test]
    fn sentences_go_on_below_their_beginning() {
        let columns = [Column::new("NAME"), Column::new("WHY").wrap()];
        let cells = ["tcx", "the kernel has no TCX, so clsact is used"];
        let natural = natural(&columns, [cells].iter());
        let kept = choose(&columns, &natural, 32);
        let widths = widths(&columns, &natural, &kept, 32);
        assert_eq!(
            row(&columns, &kept, &widths, &cells),
            ["tcx   the kernel has no TCX, so", "      clsact is used"]
        );
        assert_eq!(wrap("", 5), [""]);
    }
}
