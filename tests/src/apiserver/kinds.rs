//! The kinds that this server knows: what discovery tells and what paths and objects must match.

/// One resource kind, as discovery (`APIResource`) describes it.
#[derive(Debug)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// Object kind, for example `Pod`.
    pub kind: &'static str,
    /// Path segment, for example `pods`.
    pub plural: &'static str,
    /// Singular name that kubectl accepts, for example `pod`.
    pub singular: &'static str,
    /// Short names that kubectl accepts.
    pub short: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether the kind has a `status` subresource.
    pub status: bool,
    /// Whether `kubectl get all` covers it.
    pub in_all: bool,
}

const fn core(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
) -> Kind {
    Kind {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short,
        namespaced: true,
        status: false,
        in_all: false,
    }
}

const fn apps(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
) -> Kind {
    Kind {
        group: "apps",
        status: true,
        in_all: true,
        ..core(kind, plural, singular, short)
    }
}

/// Every kind served, in the order in which discovery lists them.
pub static KINDS: [Kind; 11] = [
    core("ConfigMap", "configmaps", "configmap", &["cm"]),
    core("Endpoints", "endpoints", "endpoints", &["ep"]),
    Kind {
        namespaced: false,
        status: true,
        ..core("Namespace", "namespaces", "namespace", &["ns"])
    },
    Kind {
        namespaced: false,
        status: true,
        ..core("Node", "nodes", "node", &["no"])
    },
    Kind {
        status: true,
        in_all: true,
        ..core("Pod", "pods", "pod", &["po"])
    },
    Kind {
        status: true,
        in_all: true,
        ..core("Service", "services", "service", &["svc"])
    },
    apps("DaemonSet", "daemonsets", "daemonset", &["ds"]),
    apps("Deployment", "deployments", "deployment", &["deploy"]),
    apps("ReplicaSet", "replicasets", "replicaset", &["rs"]),
    Kind {
        group: "discovery.k8s.io",
        ..core("EndpointSlice", "endpointslices", "endpointslice", &[])
    },
    Kind {
        group: "networking.k8s.io",
        ..core(
            "NetworkPolicy",
            "networkpolicies",
            "networkpolicy",
            &["netpol"],
        )
    },
];

impl Kind {
    /// The `apiVersion` of the kind's objects: `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The name that error messages use: `pods`, or `deployments.apps` outside the core group.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

/// Finds a kind by the parts of a request path.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// Finds a kind by an object's `apiVersion` and `kind`.
pub fn by_object(api_version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|k| k.kind == kind && k.api_version() == api_version)
}

/// Finds a kind as a person would name it: `Pod`, `pod`, `pods` or `po`.
pub fn by_name(name: &str) -> Option<&'static Kind> {
    let name = name.to_ascii_lowercase();
    KINDS.iter().find(|k| {
        k.plural == name
            || k.singular == name
            || k.short.contains(&name.as_str())
            || k.kind.to_ascii_lowercase() == name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions() {
        for name in ["Deployment", "deploy", "deployments", "deployment"] {
            assert_eq!(by_name(name).unwrap().api_version(), "apps/v1");
        }
        assert_eq!(by_object("v1", "Pod").unwrap().plural, "pods");
        assert!(by_object("v1", "Deployment").is_none());
        assert!(by_path("discovery.k8s.io", "v1", "endpointslices").is_some());
        assert_eq!(
            by_name("netpol").unwrap().qualified(),
            "networkpolicies.networking.k8s.io"
        );
    }
}
