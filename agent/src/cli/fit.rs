//! A table of flows that fits a terminal: names are shortened in their middle, and where that is
//! not enough columns are left out, the least telling first.

use std::borrow::Cow;

/// Spaces between two columns.
const GAP: usize = 2;

/// What stands for what was left out.
const ELLIPSIS: char = '…';

/// Columns in the order in which they are left out. Time, both ends, protocol and translation
/// stay.
const LEFT_OUT: [&str; 12] = [
    "CONNECTION",
    "HOPS",
    "LB",
    "EXPECTED",
    "SCOPE",
    "EVENT",
    "RTT",
    "STATE",
    "BYTES",
    "CLASS",
    "PACKETS",
    "NODE",
];

/// How narrow a column may become: those whose cells are still told apart by both their ends.
fn least(name: &str) -> Option<usize> {
    match name {
        "NODE" => Some(12),
        "SOURCE" | "DESTINATION" => Some(20),
        "NAT/REMOTE-SEES" => Some(22),
        "HOPS" => Some(16),
        _ => None,
    }
}

/// The columns to show, by place, so that they fit into `width` when names are shortened.
/// `natural` are their widths with all names whole.
pub fn choose(header: &[&str], natural: &[usize], width: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..header.len()).collect();
    for name in LEFT_OUT {
        let narrow = |place: &usize| {
            let whole = natural[*place];
            least(header[*place]).map_or(whole, |least| whole.min(least))
        };
        if total(kept.iter().map(narrow)) <= width {
            break;
        }
        kept.retain(|place| header[*place] != name);
    }
    kept
}

/// Widths for the columns that are shown: natural ones, the widest of the names cut down until
/// all fit, or no name can be cut further.
pub fn widths(header: &[&str], natural: &[usize], kept: &[usize], width: usize) -> Vec<usize> {
    let mut widths: Vec<usize> = kept.iter().map(|place| natural[*place]).collect();
    let mut surplus = total(widths.iter().copied()).saturating_sub(width);
    while surplus > 0 {
        let can = kept.iter().enumerate().filter_map(|(index, place)| {
            let least = least(header[*place])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [&str; 6] = [
        "TIME(UTC)",
        "NODE",
        "SOURCE",
        "DESTINATION",
        "CLASS",
        "EVENT",
    ];
    const NATURAL: [usize; 6] = [12, 33, 40, 60, 12, 6];

    fn fitted(width: usize) -> (Vec<&'static str>, usize) {
        let kept = choose(&HEADER, &NATURAL, width);
        let widths = widths(&HEADER, &NATURAL, &kept, width);
        let names = kept.iter().map(|place| HEADER[*place]).collect();
        (names, total(widths.into_iter()))
    }

    #[test]
    fn what_fits_is_whole() {
        assert_eq!(fitted(173), (HEADER.to_vec(), 173));
        assert_eq!(fitted(500), (HEADER.to_vec(), 173));
    }

    #[test]
    fn names_are_shortened_before_columns_are_left_out() {
        assert_eq!(fitted(120), (HEADER.to_vec(), 120));
        assert_eq!(fitted(92), (HEADER.to_vec(), 92));
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
}
