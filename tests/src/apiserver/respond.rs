//! The bodies of answers, in the form that the client asked for.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::discovery;
use super::kinds::Kind;
use super::list::Listing;
use super::negotiate::Form;
use super::object;
use super::params::IncludeObject;
use super::paths::Target;
use super::status::{Status, json_response};
use super::table::{Style, table};

/// One object.
pub fn one(form: Form, include: IncludeObject, kind: &Kind, found: &Value) -> Value {
    match form {
        Form::Object => found.clone(),
        Form::Metadata => object::partial(found),
        Form::Table(version) => {
            let metadata = json!({"resourceVersion": object::version(found)});
            table(
                kind,
                [found],
                metadata,
                Style {
                    version,
                    include,
                    headings: true,
                },
            )
        }
    }
}

/// A list.
pub fn list(form: Form, include: IncludeObject, kind: &Kind, listing: &Listing) -> Value {
    let items = listing.items.iter().map(|item| &**item);
    let metadata = listing.metadata();
    match form {
        Form::Table(version) => table(
            kind,
            items,
            metadata,
            Style {
                version,
                include,
                headings: true,
            },
        ),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "items": items.map(object::partial).collect::<Vec<_>>(),
        }),
        Form::Object => json!({
            "kind": format!("{}List", kind.kind),
            "apiVersion": kind.api_version(),
            "metadata": metadata,
            "items": items.map(untyped).collect::<Vec<_>>(),
        }),
    }
}

/// An item of a list: the list says of which kind its items are, they themselves do not.
fn untyped(item: &Value) -> Value {
    let mut item = item.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}

/// The answer to a delete that was done.
pub fn deleted(kind: &Kind, removed: &Value) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": object::name(removed),
            "group": kind.group,
            "kind": kind.plural,
            "uid": object::text(removed, "/metadata/uid"),
        },
    })
}

/// Health, version and discovery.
///
/// # Errors
/// 404 for what is none of these, or a group that there is not.
pub fn information(target: &Target) -> Result<Response<Body>, Status> {
    let body = match target {
        Target::Health => return Ok(Response::new(Body::from("ok"))),
        Target::Version => Some(discovery::version()),
        Target::Root => Some(discovery::root()),
        Target::CoreVersions => Some(discovery::core_versions()),
        Target::Groups => Some(discovery::group_list()),
        Target::Group(group) => discovery::group(group),
        Target::Resources(group, version) => discovery::resources(group, version),
        Target::Collection(..)
        | Target::Object { .. }
        | Target::PortForward { .. }
        | Target::Unknown => None,
    };
    let body = body.ok_or_else(Status::no_such_path)?;
    Ok(json_response(StatusCode::OK, &body))
}
