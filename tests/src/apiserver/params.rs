//! The query parameters of list and watch requests, checked as the real server checks them.

use std::time::Duration;

use serde_json::Value;

use super::fields::FieldSelector;
use super::kinds::Kind;
use super::labels::LabelSelector;
use super::status::Status;

/// How a list's `resourceVersion` is meant (`resourceVersionMatch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// At exactly that version.
    Exact,
    /// At that version or any later one.
    NotOlderThan,
}

/// What the server makes of a watch that is to begin with the present objects
/// (`sendInitialEvents`): releases differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamingLists {
    /// It serves them (1.32 and later, by default).
    #[default]
    Served,
    /// It answers 422 (1.19 to 1.31, by default).
    Refused,
    /// It does not know the parameters, and passes over them (before 1.19).
    Unknown,
}

impl StreamingLists {
    /// The parameters of a watch as such a server understands them.
    pub(super) fn apply(self, mut params: Params) -> Result<Params, Status> {
        match self {
            Self::Refused if params.initial_events.is_some() => Err(Status::invalid(
                "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
                 sendInitialEvents is forbidden for watch unless the WatchList feature gate is \
                 enabled"
                    .to_owned(),
            )),
            Self::Unknown => {
                params.initial_events = None;
                Ok(params)
            }
            Self::Served | Self::Refused => Ok(params),
        }
    }
}

/// Parameters of a list or watch.
#[derive(Debug, Clone, Default)]
pub struct Params {
    /// Which labels to select by.
    pub labels: LabelSelector,
    /// Which fields to select by.
    pub fields: FieldSelector,
    /// Most objects in one answer; none for no limit.
    pub limit: Option<usize>,
    /// Token of the list to go on with.
    pub continue_token: Option<String>,
    /// `resourceVersion`; none where unset, 0 for "any".
    pub version: Option<u64>,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// Whether a watch is asked for.
    pub watch: bool,
    /// Whether the watcher understands bookmarks.
    pub bookmarks: bool,
    /// How long the watch shall last at most.
    pub timeout: Option<Duration>,
    /// Whether a watch begins with the present objects; none for the version's own rule.
    pub initial_events: Option<bool>,
    /// Whether rows of a Table carry whole objects, or nothing; metadata where unset.
    pub include_object: IncludeObject,
}

/// What rows of a Table carry (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Only the object's metadata.
    #[default]
    Metadata,
    /// The object.
    Object,
    /// Nothing.
    None,
}

impl Params {
    /// Reads a query string for a kind. Unknown parameters are ignored, as the real server does.
    ///
    /// # Errors
    /// 400 or 422 naming the parameter at fault.
    pub fn parse(query: &str, kind: &Kind) -> Result<Self, Status> {
        let mut params = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.is_empty() {
                continue;
            }
            match &*key {
                "labelSelector" => params.labels = LabelSelector::parse(&value)?,
                "fieldSelector" => params.fields = FieldSelector::parse(&value, kind)?,
                "limit" => params.limit = Some(number(&key, &value)?).filter(|n| *n > 0),
                "continue" => params.continue_token = Some(value.into_owned()),
                "resourceVersion" => params.version = Some(number(&key, &value)?),
                "resourceVersionMatch" => params.version_match = Some(version_match(&value)?),
                "watch" => params.watch = boolean(&key, &value)?,
                "allowWatchBookmarks" => params.bookmarks = boolean(&key, &value)?,
                "sendInitialEvents" => params.initial_events = Some(boolean(&key, &value)?),
                "timeoutSeconds" => {
                    let seconds = number(&key, &value)?;
                    params.timeout = Some(Duration::from_secs(seconds)).filter(|t| !t.is_zero());
                }
                "includeObject" => {
                    params.include_object = match &*value {
                        "Object" => IncludeObject::Object,
                        "None" => IncludeObject::None,
                        _ => IncludeObject::Metadata,
                    }
                }
                _ => {}
            }
        }
        params.check()?;
        Ok(params)
    }

    /// Combinations that the real server refuses (`ValidateListOptions`).
    fn check(&self) -> Result<(), Status> {
        let forbidden = |field: &str, why: &str| {
            Err(Status::invalid(format!(
                "ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {why}"
            )))
        };
        if self.watch {
            return match (self.initial_events, self.version_match) {
                (Some(_), Some(VersionMatch::NotOlderThan)) | (None, None) => Ok(()),
                (Some(_), _) => forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ),
                (None, Some(_)) => forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
            };
        }
        if self.initial_events.is_some() {
            return forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            );
        }
        if self.continue_token.is_some() && self.version.is_some_and(|v| v > 0) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(why));
        }
        match self.version_match {
            Some(_) if self.continue_token.is_some() => forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            ),
            Some(_) if self.version.is_none() => forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            Some(VersionMatch::Exact) if self.version == Some(0) => forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            _ => Ok(()),
        }
    }

    /// Whether an object is selected, in a namespace where one is given.
    pub fn selects(&self, namespace: Option<&str>, object: &Value) -> bool {
        namespace.is_none_or(|n| n == super::object::namespace(object))
            && self.labels.matches(object)
            && self.fields.matches(object)
    }
}

fn number<N: std::str::FromStr>(key: &str, value: &str) -> Result<N, Status> {
    value.parse().map_err(|_| {
        Status::bad_request(format!(
            "{key}: Invalid value: {value:?}: must be a whole number"
        ))
    })
}

fn boolean(key: &str, value: &str) -> Result<bool, Status> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Status::bad_request(format!(
            "{key}: Invalid value: {value:?}: true or false"
        ))),
    }
}

fn version_match(value: &str) -> Result<VersionMatch, Status> {
    match value {
        "Exact" => Ok(VersionMatch::Exact),
        "NotOlderThan" => Ok(VersionMatch::NotOlderThan),
        _ => Err(Status::invalid(format!(
            "resourceVersionMatch: Unsupported value: {value:?}: supported values: \"Exact\", \
             \"NotOlderThan\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::by_name;
    use super::*;

    fn parse(query: &str) -> Result<Params, Status> {
        Params::parse(query, by_name("pods").unwrap())
    }

    #[test]
    fn reads_what_clients_send() {
        let params = parse(
            "watch=true&allowWatchBookmarks=true&resourceVersion=12&timeoutSeconds=290\
             &fieldSelector=spec.nodeName%3Dn1&labelSelector=",
        )
        .unwrap();
        assert!(params.watch && params.bookmarks && params.labels.is_empty());
        assert_eq!(params.version, Some(12));
        assert_eq!(params.timeout, Some(Duration::from_secs(290)));
        assert!(!params.fields.is_empty());
    }

    #[test]
    fn refuses_what_the_real_server_refuses() {
        for (query, code) in [
            ("resourceVersion=abc", 400),
            ("limit=-1", 400),
            ("watch=maybe", 400),
            ("continue=x&resourceVersion=5", 400),
            ("resourceVersionMatch=Exact", 422),
            ("resourceVersionMatch=Newest&resourceVersion=5", 422),
            ("resourceVersionMatch=Exact&resourceVersion=0", 422),
            ("sendInitialEvents=true", 422),
            ("watch=1&sendInitialEvents=true", 422),
            ("watch=1&resourceVersionMatch=NotOlderThan", 422),
        ] {
            assert_eq!(parse(query).unwrap_err().code, code, "{query}");
        }
        assert!(parse("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").is_ok());
    }
}
