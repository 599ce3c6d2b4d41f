//! Field selectors, in the syntax of the `fieldSelector` parameter.

use serde_json::Value;

use super::kinds::Kind;
use super::status::Status;

/// A parsed field selector; the empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses `field=value,field!=value`, with `\,` `\=` and `\\` as escapes.
    ///
    /// # Errors
    /// 400 naming a term that cannot be read or a field that the kind does not select by.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let parsed = term
                .split_once("!=")
                .map(|(f, v)| (f, false, v))
                .or_else(|| term.split_once("==").map(|(f, v)| (f, true, v)))
                .or_else(|| term.split_once('=').map(|(f, v)| (f, true, v)));
            let Some((field, equal, value)) = parsed else {
                return Err(Status::bad_request(format!(
                    "invalid selector: {text:?}; can't understand {term:?}"
                )));
            };
            if !selectable(kind).contains(&field) {
                return Err(Status::bad_request(format!(
                    "Unable to find {:?} that match label selector \"\", field selector {text:?}: \
                     field label not supported: {field}",
                    kind.api_version() + ", Resource=" + kind.plural
                )));
            }
            terms.push((field.to_owned(), equal, unescape(value)));
        }
        Ok(Self { terms })
    }

    /// Adds `metadata.name=<name>`, for a watch on one object's own path.
    pub fn and_name(&mut self, name: &str) {
        self.terms
            .push(("metadata.name".to_owned(), true, name.to_owned()));
    }

    /// Whether the selector has no terms.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object's fields satisfy every term; a missing field is the empty string.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|(field, equal, wanted)| {
            let pointer = format!("/{}", field.replace('.', "/"));
            let found = match object.pointer(&pointer) {
                Some(Value::String(s)) => s.clone(),
                Some(Value::Bool(b)) => b.to_string(),
                Some(Value::Number(n)) => n.to_string(),
                _ if BOOLEANS.contains(&field.as_str()) => "false".to_owned(),
                _ => String::new(),
            };
            (found == *wanted) == *equal
        })
    }
}

/// Fields whose absence selects as `false`.
const BOOLEANS: [&str; 2] = ["spec.hostNetwork", "spec.unschedulable"];

/// The fields that a kind can be selected by, as Kubernetes' own conversion functions list them.
fn selectable(kind: &Kind) -> &'static [&'static str] {
    match kind.plural {
        "pods" => &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "nodes" => &["metadata.name", "spec.unschedulable"],
        "namespaces" => &["metadata.name", "status.phase"],
        "services" => &[
            "metadata.name",
            "metadata.namespace",
            "spec.clusterIP",
            "spec.type",
        ],
        "replicasets" => &["metadata.name", "metadata.namespace", "status.replicas"],
        _ => &["metadata.name", "metadata.namespace"],
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut escaped, mut start) = (Vec::new(), false, 0);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::kinds::by_name;
    use super::*;
    use serde_json::json;

    #[test]
    fn field_terms() {
        let pods = by_name("pods").unwrap();
        let pod = json!({
            "metadata": {"name": "a", "namespace": "default"},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"},
        });
        let matches = |s: &str| FieldSelector::parse(s, pods).unwrap().matches(&pod);
        assert!(matches(
            "spec.nodeName=n1,status.phase!=Failed,metadata.name==a"
        ));
        assert!(matches("spec.hostNetwork=false"));
        assert!(!matches("spec.nodeName="));
        assert!(!matches("metadata.namespace=other"));
        let wrong = FieldSelector::parse("spec.color=red", pods).unwrap_err();
        assert_eq!(wrong.code, 400);
        assert!(
            wrong
                .message
                .contains("field label not supported: spec.color")
        );
        assert_eq!(
            FieldSelector::parse("metadata.name", pods)
                .unwrap_err()
                .code,
            400
        );
    }

    #[test]
    fn escapes_in_field_values() {
        let pods = by_name("pods").unwrap();
        let selector = FieldSelector::parse(r"metadata.name=a\,b\=c", pods).unwrap();
        assert!(selector.matches(&json!({"metadata": {"name": "a,b=c"}})));
    }
}
