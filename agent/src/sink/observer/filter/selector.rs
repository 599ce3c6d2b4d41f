//! Kubernetes label selectors over labels of the form `source:key=value`.

use super::ends::End;
use super::{Error, Test, any};

const WANTED: &str =
    "a label selector (key=value, key!=value, key in (a,b), key notin (a), key, !key)";

/// What a key must be.
#[derive(Debug, PartialEq, Eq)]
enum Rule {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// A rule about a key; with a source (`k8s`, `reserved`) only labels of that source count.
#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    source: Option<String>,
    key: String,
    rule: Rule,
}

/// Labels of an end.
pub(super) fn labels(
    end: End,
    field: &'static str,
    values: &[String],
) -> Result<Option<Test>, Error> {
    let parse = |value: &String| parse(value).ok_or_else(|| Error::new(field, value, WANTED));
    let selectors = values.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(any(selectors, move |view, selector: &Vec<Requirement>| {
        let labels = end
            .endpoint(view.flow)
            .map_or(&[][..], |endpoint| &endpoint.labels);
        selector.iter().all(|requirement| requirement.holds(labels))
    }))
}

impl Requirement {
    fn holds(&self, labels: &[String]) -> bool {
        let value = labels.iter().find_map(|label| self.value(label));
        match &self.rule {
            Rule::Exists => value.is_some(),
            Rule::Absent => value.is_none(),
            Rule::In(allowed) => value.is_some_and(|value| allowed.iter().any(|v| v == value)),
            Rule::NotIn(denied) => value.is_none_or(|value| denied.iter().all(|v| v != value)),
        }
    }

    /// The value of a label, if it is the one that this is about.
    fn value<'a>(&self, label: &'a str) -> Option<&'a str> {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        let fits = key == self.key && self.source.as_deref().is_none_or(|own| own == source);
        fits.then_some(value)
    }
}

/// Comma-separated requirements; commas within parentheses separate values.
fn parse(selector: &str) -> Option<Vec<Requirement>> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, character) in selector.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                parts.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&selector[start..]);
    if depth != 0 {
        return None;
    }
    parts
        .into_iter()
        .map(|part| requirement(part.trim()))
        .collect()
}

fn requirement(text: &str) -> Option<Requirement> {
    if let Some(key) = text.strip_prefix('!') {
        return named(key, Rule::Absent);
    }
    if let Some((key, value)) = text.split_once("!=") {
        return named(key, Rule::NotIn(vec![single(value)?]));
    }
    if let Some((key, value)) = text.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        return named(key, Rule::In(vec![single(value)?]));
    }
    if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')')?.split(',');
        let values = values.map(single).collect::<Option<Vec<_>>>()?;
        let mut words = head.split_whitespace();
        let (key, operator, end) = (words.next()?, words.next()?, words.next());
        return match (operator, end) {
            ("in", None) => named(key, Rule::In(values)),
            ("notin", None) => named(key, Rule::NotIn(values)),
            _ => None,
        };
    }
    named(text, Rule::Exists)
}

fn named(name: &str, rule: Rule) -> Option<Requirement> {
    let name = name.trim();
    let (source, key) = match name.split_once(':') {
        // `any:` is how selectors spell "of whatever source".
        Some(("any", key)) => (None, key),
        Some((source, key)) => (Some(source.to_owned()), key),
        None => (None, name),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || !key.chars().all(allowed) {
        return None;
    }
    Some(Requirement {
        source,
        key: key.to_owned(),
        rule,
    })
}

/// A label value: letters, digits, `-`, `_`, `.`; may be empty.
fn single(value: &str) -> Option<String> {
    let value = value.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    value.chars().all(allowed).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(selector: &str) -> bool {
        let labels = ["k8s:app=web", "k8s:tier=front", "reserved:host"].map(str::to_owned);
        parse(selector).is_some_and(|parsed| parsed.iter().all(|one| one.holds(&labels)))
    }

    #[test]
    fn selectors_that_hold() {
        for selector in [
            "app=web",
            "app==web",
            "k8s:app=web",
            "any:app=web",
            "app",
            "!zone",
            "app!=db",
            "zone!=a",
            "app in (db, web)",
            "app notin (db)",
            "app=web,tier=front",
            "reserved:host",
        ] {
            assert!(holds(selector), "{selector}");
        }
    }

    #[test]
    fn selectors_that_do_not() {
        for selector in [
            "app=db",
            "zone",
            "!app",
            "app!=web",
            "app in (db)",
            "app notin (web,db)",
            "app=web,tier=back",
            "reserved:app=web",
            "reserved:world",
        ] {
            assert!(!holds(selector), "{selector}");
        }
    }

    #[test]
    fn selectors_that_cannot_be() {
        for selector in [
            "",
            ",",
            "=a",
            "a in",
            "a in (b",
            "a over (b)",
            "a b",
            "a=b c",
            "a)",
        ] {
            assert_eq!(parse(selector), None, "{selector}");
        }
    }
}
