//! Tests on names: pods, services, DNS names, nodes.

use super::ends::End;
use super::{Error, Test, any};
use crate::sink::proto::flow::{Flow, Service};

/// `namespace/prefix`: `ns/` is a whole namespace, a bare name that prefix in `default`, and a
/// leading `/` any namespace.
struct Namespaced {
    namespace: String,
    prefix: String,
}

impl Namespaced {
    fn parse(field: &'static str, value: &str) -> Result<Self, Error> {
        const WANTED: &str = "a name, namespace/name or namespace/";
        let (namespace, prefix) = value.split_once('/').unwrap_or(("default", value));
        if value.is_empty() || prefix.contains('/') {
            return Err(Error::new(field, value, WANTED));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    fn fits(&self, namespace: &str, name: &str) -> bool {
        // An end without a name is not "any" pod or service.
        !(namespace.is_empty() && name.is_empty())
            && (self.namespace.is_empty() || self.namespace == namespace)
            && name.starts_with(&self.prefix)
    }
}

fn namespaced(field: &'static str, values: &[String]) -> Result<Vec<Namespaced>, Error> {
    values
        .iter()
        .map(|value| Namespaced::parse(field, value))
        .collect()
}

/// Pod of an end.
pub(super) fn pod(end: End, field: &'static str, values: &[String]) -> Result<Option<Test>, Error> {
    Ok(any(namespaced(field, values)?, move |view, wanted| {
        end.endpoint(view.flow)
            .is_some_and(|endpoint| wanted.fits(&endpoint.namespace, &endpoint.pod_name))
    }))
}

/// Service of an end.
pub(super) fn service(
    end: End,
    field: &'static str,
    values: &[String],
) -> Result<Option<Test>, Error> {
    fn of(end: End, flow: &Flow) -> Option<&Service> {
        match end {
            End::Source => flow.source_service.as_ref(),
            End::Destination => flow.destination_service.as_ref(),
        }
    }
    Ok(any(namespaced(field, values)?, move |view, wanted| {
        of(end, view.flow).is_some_and(|service| wanted.fits(&service.namespace, &service.name))
    }))
}

/// DNS name of an end; `*` stands for any run of characters, case and a final dot do not count.
pub(super) fn fqdn(
    end: End,
    field: &'static str,
    values: &[String],
) -> Result<Option<Test>, Error> {
    let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    let mut patterns = Vec::new();
    for value in values {
        if value.is_empty() {
            return Err(Error::new(field, value, "a DNS name or pattern"));
        }
        patterns.push(plain(value));
    }
    Ok(any(patterns, move |view, pattern| {
        let names = match end {
            End::Source => &view.flow.source_names,
            End::Destination => &view.flow.destination_names,
        };
        names.iter().any(|name| glob(pattern, &plain(name)))
    }))
}

/// Node name, a glob; the form `cluster/node` is for several clusters, of which nodescope
/// knows one, called `default`.
pub(super) fn node(values: &[String]) -> Result<Option<Test>, Error> {
    let mut patterns = Vec::new();
    for value in values {
        let (cluster, node) = value.split_once('/').unwrap_or(("*", value));
        if value.is_empty() || node.contains('/') {
            return Err(Error::new("node_name", value, "a node name or glob"));
        }
        let node = if node.is_empty() { "*" } else { node };
        let cluster = if cluster.is_empty() { "*" } else { cluster };
        patterns.push((cluster.to_owned(), node.to_owned()));
    }
    Ok(any(patterns, |view, (cluster, node)| {
        glob(cluster, "default") && glob(node, &view.flow.node_name)
    }))
}

/// Whether `text` fits `pattern`, in which `*` stands for any run of characters and `?` for one.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut here) = (0, 0);
    // Where to go on when the last `*` has to take one character more.
    let mut retry: Option<(usize, usize)> = None;
    while here < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, here));
                at += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == text[here] => {
                at += 1;
                here += 1;
            }
            _ => {
                let Some((after, taken)) = retry else {
                    return false;
                };
                retry = Some((after, taken + 1));
                at = after;
                here = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|&rest| rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn globs() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a"),
            ("a*c", "abcc"),
            ("a?c", "abc"),
            ("a", "a"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a*c", "abcd"),
            ("a?c", "ac"),
            ("a", "A"),
            ("b*", "ab"),
        ] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }
}
