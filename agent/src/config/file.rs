//! The configuration file: the flags' names as keys, read by the flags' own parsers.

use std::path::{Path, PathBuf};

use clap::{Args as _, Command, FromArgMatches as _};
use serde_yaml_ng::{Mapping, Value};

use super::args::AgentArgs;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}: {source}; check --config", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not a YAML mapping.
    #[error("configuration file {} is not YAML of the form `name: value`: {reason}", .path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        reason: String,
    },
    /// A key is the name of no flag.
    #[error(
        "configuration file {}: unknown key `{key}`; keys are the flags that \
         `nodescope agent --help` lists, without `--`", .path.display()
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as written.
        key: String,
    },
    /// A key has a value that its flag does not take.
    #[error("configuration file {}: key `{key}`: {reason}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What the flag says about the value.
        reason: String,
    },
}

/// Reads a file into the same form as the command line.
///
/// # Errors
/// [`FileError`] names the file, and the key where one is at fault.
pub(super) fn read(path: &Path) -> Result<AgentArgs, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<AgentArgs, FileError> {
    let mapping: Option<Mapping> =
        serde_yaml_ng::from_str(text).map_err(|error| FileError::Yaml {
            path: path.to_owned(),
            reason: one_line(&error.to_string()),
        })?;
    let command = flags();
    let mut all = AgentArgs::default();
    for (key, value) in mapping.unwrap_or_default() {
        let key = scalar(&key).unwrap_or_else(|| "(not a word)".to_owned());
        // A file that names a further file would leave it open which of the two has the say.
        let known = command.get_arguments().filter_map(|arg| arg.get_long());
        if key == "config" || !known.into_iter().any(|name| name == key) {
            return Err(FileError::UnknownKey {
                path: path.to_owned(),
                key,
            });
        }
        let one = parse_one(&command, &key, &value).map_err(|reason| FileError::Value {
            path: path.to_owned(),
            key,
            reason,
        })?;
        all = all.or(one);
    }
    Ok(all)
}

/// The flags as a command of its own, deaf to the environment, which the command line has heard.
fn flags() -> Command {
    AgentArgs::augment_args(Command::new("agent").no_binary_name(true))
        .mut_args(|arg| arg.env(None::<&str>))
}

/// One key as if its flag had been given, once for each element of a list.
fn parse_one(command: &Command, key: &str, value: &Value) -> Result<AgentArgs, String> {
    let items = match value {
        Value::Sequence(items) if items.is_empty() => {
            return Err("the list is empty; leave the key out instead".to_owned());
        }
        Value::Sequence(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    let arguments = items
        .iter()
        .map(|item| scalar(item).map(|text| format!("--{key}={text}")))
        .collect::<Option<Vec<String>>>()
        .ok_or("the value must be a word or a number, or a list of them")?;
    let matches = command
        .clone()
        .try_get_matches_from(arguments)
        .map_err(first_line)?;
    AgentArgs::from_arg_matches(&matches).map_err(first_line)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

/// The flag parser's complaint without its advice on the use of the command line, except the
/// words that would have been right.
fn first_line(error: clap::Error) -> String {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    one_line(paragraph.strip_prefix("error: ").unwrap_or(paragraph))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
