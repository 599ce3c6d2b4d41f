//! Which form of an answer a client's `Accept` header asks for.

/// The form in which objects are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// `PartialObjectMetadata`: only metadata.
    Metadata,
    /// A `Table` for people to read, as kubectl asks for; its `meta.k8s.io` version.
    Table(&'static str),
}

/// Picks the first form in an `Accept` header that this server can make. JSON is the only
/// encoding: a client that names others too (kubectl and client-go name protobuf and CBOR first)
/// gets JSON, and so does one that names nothing known, since every client reads it.
pub fn form(accept: &str) -> Form {
    accept
        .split(',')
        .find_map(acceptable)
        .unwrap_or(Form::Object)
}

fn acceptable(range: &str) -> Option<Form> {
    let mut parts = range.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let (mut form, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => form = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    match (form, group, version) {
        ("", ..) => Some(Form::Object),
        ("Table", "meta.k8s.io", "v1") => Some(Form::Table("v1")),
        ("Table", "meta.k8s.io", "v1beta1") => Some(Form::Table("v1beta1")),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
            Some(Form::Metadata)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_clients_send() {
        for (accept, expected) in [
            ("", Form::Object),
            ("application/json", Form::Object),
            ("*/*", Form::Object),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Form::Object,
            ),
            ("application/vnd.kubernetes.protobuf", Form::Object),
            ("application/json;stream=watch", Form::Object),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,\
                 application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Form::Table("v1"),
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                 application/json",
                Form::Object,
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Form::Metadata,
            ),
        ] {
            assert_eq!(form(accept), expected, "{accept}");
        }
    }
}
