//! What a request path names.

use super::kinds::{self, Kind};

/// What a request path names.
#[derive(Debug)]
pub enum Target {
    /// `/`
    Root,
    /// `/healthz`, `/livez`, `/readyz`
    Health,
    /// `/version`
    Version,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1` (empty group) or `/apis/<group>/<version>`
    Resources(String, String),
    /// A kind's objects in one namespace or, without one, all of them.
    Collection(&'static Kind, Option<String>),
    /// One object.
    Object {
        /// Its kind.
        kind: &'static Kind,
        /// Its namespace, empty for cluster-wide kinds.
        namespace: String,
        /// Its name.
        name: String,
        /// Whether the path names its `status` subresource.
        status: bool,
    },
    /// `portforward` of a pod.
    PortForward {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Nothing that is served.
    Unknown,
}

/// Reads a request path.
pub fn parse(path: &str) -> Target {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        [] => Target::Root,
        ["healthz" | "livez" | "readyz", ..] => Target::Health,
        ["version"] => Target::Version,
        ["api"] => Target::CoreVersions,
        ["apis"] => Target::Groups,
        ["apis", group] => Target::Group((*group).to_owned()),
        ["api", version] => Target::Resources(String::new(), (*version).to_owned()),
        ["apis", group, version] => Target::Resources((*group).to_owned(), (*version).to_owned()),
        [
            "api",
            "v1",
            "namespaces",
            namespace,
            "pods",
            name,
            "portforward",
        ] => Target::PortForward {
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
        },
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Target::Unknown,
    }
}

fn resource(group: &str, version: &str, parts: &[&str]) -> Target {
    if let ["namespaces", namespace, plural, rest @ ..] = parts
        && let Some(kind) = kinds::by_path(group, version, plural)
        && kind.namespaced
    {
        return match rest {
            [] => Target::Collection(kind, Some((*namespace).to_owned())),
            _ => object(kind, namespace, rest),
        };
    }
    let [plural, rest @ ..] = parts else {
        return Target::Unknown;
    };
    match (kinds::by_path(group, version, plural), rest) {
        (Some(kind), []) => Target::Collection(kind, None),
        (Some(kind), rest) if !kind.namespaced => object(kind, "", rest),
        _ => Target::Unknown,
    }
}

fn object(kind: &'static Kind, namespace: &str, rest: &[&str]) -> Target {
    let (name, status) = match rest {
        [name] => (*name, false),
        [name, "status"] if kind.status => (*name, true),
        _ => return Target::Unknown,
    };
    Target::Object {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        status,
    }
}

impl Target {
    /// What the counters call it: the kind's plural, else the path.
    pub fn resource<'a>(&self, path: &'a str) -> &'a str {
        match self {
            Self::Collection(kind, _) | Self::Object { kind, .. } => kind.plural,
            Self::PortForward { .. } => "pods/portforward",
            _ => path,
        }
    }

    /// Whether it is served without a token, as a cluster's default roles have it
    /// (`system:public-info-viewer`).
    pub fn is_public(&self) -> bool {
        matches!(self, Self::Health | Self::Version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_kinds() {
        let show = |path: &str| match parse(path) {
            Target::Collection(kind, namespace) => format!("{} in {namespace:?}", kind.plural),
            Target::Object {
                kind,
                namespace,
                name,
                status,
            } => {
                format!("{} {namespace}/{name} {status}", kind.plural)
            }
            Target::PortForward { namespace, name } => format!("port of {namespace}/{name}"),
            other => format!("{other:?}"),
        };
        for (path, expected) in [
            ("/api/v1/pods", "pods in None"),
            ("/api/v1/namespaces/d/pods", "pods in Some(\"d\")"),
            ("/api/v1/namespaces/d/pods/a", "pods d/a false"),
            ("/api/v1/namespaces/d/pods/a/status", "pods d/a true"),
            ("/api/v1/namespaces/d/pods/a/log", "Unknown"),
            ("/api/v1/namespaces/d/pods/a/portforward", "port of d/a"),
            ("/api/v1/namespaces", "namespaces in None"),
            ("/api/v1/namespaces/d", "namespaces /d false"),
            ("/api/v1/namespaces/d/status", "namespaces /d true"),
            ("/api/v1/nodes/n1", "nodes /n1 false"),
            ("/api/v1/pods/a", "Unknown"),
            ("/api/v1/deployments", "Unknown"),
            (
                "/apis/apps/v1/namespaces/d/deployments/w",
                "deployments d/w false",
            ),
            (
                "/apis/discovery.k8s.io/v1/endpointslices",
                "endpointslices in None",
            ),
            (
                "/apis/discovery.k8s.io/v1/",
                "Resources(\"discovery.k8s.io\", \"v1\")",
            ),
            ("/openapi/v2", "Unknown"),
            ("/readyz/ping", "Health"),
        ] {
            assert_eq!(show(path), expected, "{path}");
        }
    }
}
