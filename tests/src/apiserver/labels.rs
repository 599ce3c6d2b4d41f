//! Label selectors, in the syntax of the `labelSelector` parameter.

use serde_json::Value;

use super::object;
use super::status::Status;

/// What one term of a label selector asks of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

/// A parsed label selector; the empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    terms: Vec<(String, Want)>,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    ///
    /// # Errors
    /// 400 naming the term that cannot be read.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for term in split_outside_parentheses(text) {
            let term = term.trim();
            if !term.is_empty() {
                terms.push(parse_label_term(term)?);
            }
        }
        Ok(Self { terms })
    }

    /// Whether the selector has no terms.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object's labels satisfy every term.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object::map(object, "/metadata/labels");
        self.terms.iter().all(|(key, want)| {
            let value = labels.and_then(|l| l.get(key)).and_then(Value::as_str);
            let numeric = || value.and_then(|v| v.parse::<i64>().ok());
            match want {
                Want::In(allowed) => value.is_some_and(|v| allowed.iter().any(|a| a == v)),
                Want::NotIn(denied) => value.is_none_or(|v| denied.iter().all(|d| d != v)),
                Want::Exists => value.is_some(),
                Want::Absent => value.is_none(),
                Want::Above(limit) => numeric().is_some_and(|v| v > *limit),
                Want::Below(limit) => numeric().is_some_and(|v| v < *limit),
            }
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_label_term(term: &str) -> Result<(String, Want), Status> {
    let wrong = || {
        Status::bad_request(format!(
            "unable to parse requirement {term:?} of the label selector; write key=value, \
             key!=value, key in (a,b), key notin (a,b), key or !key"
        ))
    };
    let (key, want) = if let Some(key) = term.strip_prefix('!') {
        (key, Want::Absent)
    } else if let Some((head, rest)) = term.split_once('(') {
        let values = rest.strip_suffix(')').ok_or_else(wrong)?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let (key, operator) = head
            .trim()
            .rsplit_once(char::is_whitespace)
            .ok_or_else(wrong)?;
        match operator {
            "in" => (key, Want::In(values)),
            "notin" => (key, Want::NotIn(values)),
            _ => return Err(wrong()),
        }
    } else if let Some((key, value)) = term.split_once("!=") {
        (key, Want::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Want::In(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = term.split_once('>') {
        (key, Want::Above(value.trim().parse().map_err(|_| wrong())?))
    } else if let Some((key, value)) = term.split_once('<') {
        (key, Want::Below(value.trim().parse().map_err(|_| wrong())?))
    } else {
        (term, Want::Exists)
    };
    let key = key.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || !key.chars().all(allowed) {
        return Err(wrong());
    }
    Ok((key.to_owned(), want))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(selector: &str) -> bool {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "3", "x/y": ""}}});
        LabelSelector::parse(selector).unwrap().matches(&object)
    }

    #[test]
    fn label_terms() {
        for yes in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "other!=db",
            "app in (db, web)",
            "x/y",
            "app notin (db)",
            "other notin (a)",
            "!other",
            "tier>2",
            "tier<4",
            "x/y=",
            "app=web,tier in (3,4),!z",
        ] {
            assert!(labels(yes), "{yes} should match");
        }
        for no in [
            "app=db",
            "!app",
            "other",
            "app notin (web)",
            "tier>3",
            "other in (web)",
        ] {
            assert!(!labels(no), "{no} should not match");
        }
        for bad in [
            "a b",
            "app in web",
            "app in (web",
            "=x",
            "tier>x",
            "app near (x)",
        ] {
            assert_eq!(LabelSelector::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
