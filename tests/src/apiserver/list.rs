//! LIST: selection, chunks that all show one version, and the versions a client may ask for.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::history::Missing;
use super::kinds::Kind;
use super::params::{Params, VersionMatch};
use super::status::Status;
use super::store::{Key, Store};

/// One answer to a list request.
#[derive(Debug)]
pub struct Listing {
    /// The version that the objects are from.
    pub version: u64,
    /// The objects selected, in key order.
    pub items: Vec<Arc<Value>>,
    /// Token to ask for the next chunk with.
    pub continue_token: Option<String>,
    /// How many objects are left; only known where nothing is selected by label or field.
    pub remaining: Option<usize>,
}

impl Listing {
    /// `metadata` of the list object.
    pub fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

const EXPIRED_CHUNK: &str = "The provided continue parameter is too old to display a consistent \
    list result. You can start a new list without the continue parameter, or use the continue \
    token in this response to retrieve the remainder of the results. Continuing with the provided \
    token results in an inconsistent list - objects that were created, modified, or deleted \
    between the time the first chunk was returned and now may show up in the list.";

/// Lists a kind, in one namespace or in all.
///
/// # Errors
/// 410 where the version asked for has been compacted, 504 where it is not there yet, 400 for a
/// token that this server did not make.
pub fn list(
    store: &Store,
    kind: &Kind,
    namespace: Option<&str>,
    params: &Params,
) -> Result<Listing, Status> {
    let token = params
        .continue_token
        .as_deref()
        .map(Token::decode)
        .transpose()?;
    let at = match &token {
        Some(token) => token.version,
        None => exact_version(params),
    };
    let (version, objects) =
        store
            .snapshot(kind, at)
            .map_err(|missing| match (missing, &token) {
                (Missing::Compacted, Some(token)) => {
                    let mut status = Status::expired(EXPIRED_CHUNK);
                    let inconsistent = Token {
                        version: None,
                        after: token.after.clone(),
                    };
                    status.continue_token = Some(inconsistent.encode());
                    status
                }
                (Missing::Compacted, None) => {
                    Status::expired("The resourceVersion for the provided list is too old.")
                }
                (Missing::Ahead { current }, _) => {
                    Status::too_large_version(at.unwrap_or_default(), current)
                }
            })?;
    if let Some(oldest) = params.version
        && oldest > version
    {
        return Err(Status::too_large_version(oldest, version));
    }
    let after = token.map(|t| t.after);
    let mut selected = objects
        .into_iter()
        .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after))
        .filter(|(_, object)| params.selects(namespace, object));
    let limit = params.limit.unwrap_or(usize::MAX);
    let mut last = None;
    let mut items = Vec::new();
    for (key, object) in selected.by_ref().take(limit) {
        last = Some(key);
        items.push(object);
    }
    let left = selected.count();
    let continue_token = last.filter(|_| left > 0).map(|after| {
        Token {
            version: Some(version),
            after,
        }
        .encode()
    });
    let counted = continue_token.is_some() && params.labels.is_empty() && params.fields.is_empty();
    Ok(Listing {
        version,
        items,
        continue_token,
        remaining: counted.then_some(left),
    })
}

/// The version that a first list must show, where it may not be a later one: "exact", and by old
/// custom any list with a limit and a version but no match rule.
fn exact_version(params: &Params) -> Option<u64> {
    let version = params.version.filter(|v| *v > 0)?;
    match params.version_match {
        Some(VersionMatch::Exact) => Some(version),
        None if params.limit.is_some() => Some(version),
        _ => None,
    }
}

/// What a `continue` token holds.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    /// The version of the first chunk; none to go on with whatever is there now.
    version: Option<u64>,
    /// The last object already sent.
    after: Key,
}

impl Token {
    fn encode(&self) -> String {
        let version = self
            .version
            .and_then(|v| i64::try_from(v).ok())
            .unwrap_or(-1);
        let start = format!("{}/{}", self.after.0, self.after.1);
        let token = json!({"v": "meta.k8s.io/v1", "rv": version, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let read = || -> Option<Self> {
            let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            let (namespace, name) = token["start"].as_str()?.split_once('/')?;
            Some(Self {
                version: u64::try_from(token["rv"].as_i64()?).ok(),
                after: (namespace.to_owned(), name.to_owned()),
            })
        };
        read().ok_or_else(|| Status::bad_request("continue key is not valid: start a new list"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::by_name;
    use super::*;

    fn filled(count: usize) -> Store {
        let store = Store::default();
        for n in 0..count {
            add(&store, &format!("p{n:03}"));
        }
        store
    }

    fn add(store: &Store, name: &str) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}});
        store.apply(pod).unwrap();
    }

    fn page(store: &Store, query: &str) -> Result<Listing, Status> {
        let pods = by_name("pods").unwrap();
        list(store, pods, None, &Params::parse(query, pods)?)
    }

    #[test]
    fn chunks_show_one_version() {
        let store = filled(5);
        let first = page(&store, "limit=2").unwrap();
        assert_eq!((first.items.len(), first.remaining), (2, Some(3)));
        let version = first.version;
        add(&store, "p0010");
        store.delete("pods", "default", "p004").unwrap();
        let token = first.continue_token.unwrap();
        let second = page(&store, &format!("limit=2&continue={token}")).unwrap();
        assert_eq!((second.items.len(), second.version), (2, version));
        let token = second.continue_token.unwrap();
        let last = page(&store, &format!("limit=2&continue={token}")).unwrap();
        assert_eq!(last.items[0]["metadata"]["name"], "p004");
        assert!(last.continue_token.is_none() && last.remaining.is_none());
    }

    #[test]
    fn an_expired_chunk_offers_an_inconsistent_rest() {
        let store = filled(4);
        let token = page(&store, "limit=2").unwrap().continue_token.unwrap();
        add(&store, "p0020");
        store.compact();
        let gone = page(&store, &format!("continue={token}")).unwrap_err();
        assert_eq!((gone.code, gone.reason), (410, "Expired"));
        let rest = page(
            &store,
            &format!("continue={}", gone.continue_token.unwrap()),
        )
        .unwrap();
        assert_eq!(rest.items.len(), 3);
    }

    #[test]
    fn versions_asked_for() {
        let store = filled(2);
        let old = store.version();
        add(&store, "p9");
        let exact = format!("resourceVersion={old}&resourceVersionMatch=Exact");
        assert_eq!(page(&store, &exact).unwrap().items.len(), 2);
        assert_eq!(
            page(&store, &format!("resourceVersion={old}"))
                .unwrap()
                .items
                .len(),
            3
        );
        assert_eq!(page(&store, "resourceVersion=0").unwrap().items.len(), 3);
        let ahead = page(&store, "resourceVersion=1000").unwrap_err();
        assert_eq!((ahead.code, ahead.reason), (504, "Timeout"));
        store.compact();
        assert_eq!(page(&store, &exact).unwrap_err().code, 410);
        assert_eq!(page(&store, "continue=nonsense").unwrap_err().code, 400);
    }
}
