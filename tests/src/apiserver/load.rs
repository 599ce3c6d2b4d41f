//! Objects from YAML or JSON text.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Why objects could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The text is neither YAML nor JSON.
    #[error("document {document} of the objects is no YAML: {source}")]
    Yaml {
        /// Which document of the text, from 1.
        document: usize,
        /// Where and why.
        source: serde_yaml_ng::Error,
    },
    /// A document is no object.
    #[error("document {document} of the objects is no map with apiVersion and kind")]
    NoObject {
        /// Which document of the text, from 1.
        document: usize,
    },
}

/// Reads a file of objects, see [`objects`].
///
/// # Errors
/// Names the file or the document at fault.
pub fn objects_from_file(path: &Path) -> Result<Vec<Value>, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    objects(&text)
}

/// Reads objects from YAML documents or JSON; a `List` (or `PodList` and the like) gives its
/// items, empty documents are passed over.
///
/// # Errors
/// Names the document at fault.
pub fn objects(text: &str) -> Result<Vec<Value>, Error> {
    let mut objects = Vec::new();
    for (at, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let document_number = at + 1;
        let value = Value::deserialize(document).map_err(|source| Error::Yaml {
            document: document_number,
            source,
        })?;
        let is_list = value["kind"].as_str().is_some_and(|k| k.ends_with("List"));
        match value {
            Value::Null => {}
            Value::Object(mut list) if is_list => match list.remove("items") {
                Some(Value::Array(items)) => objects.extend(items),
                _ => {
                    return Err(Error::NoObject {
                        document: document_number,
                    });
                }
            },
            Value::Object(_) if value["kind"].is_string() => objects.push(value),
            _ => {
                return Err(Error::NoObject {
                    document: document_number,
                });
            }
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists() {
        let text = "kind: Pod\nmetadata: {name: a}\n---\n---\nkind: List\nitems:\n- kind: Node\n";
        let kinds: Vec<Value> = objects(text)
            .unwrap()
            .into_iter()
            .map(|o| o["kind"].clone())
            .collect();
        assert_eq!(kinds, ["Pod", "Node"]);
        assert_eq!(objects("{\"kind\": \"Pod\"}").unwrap().len(), 1);
    }

    #[test]
    fn faults_are_named() {
        let text = |t| objects(t).unwrap_err().to_string();
        assert!(text("kind: Pod\n---\n- a").starts_with("document 2"));
        assert!(text("a: [").starts_with("document 1"));
        let missing = objects_from_file(Path::new("/nonexistent/x.yaml")).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/x.yaml"));
    }
}
