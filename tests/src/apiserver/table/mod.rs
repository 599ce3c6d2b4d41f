//! `Table` answers: the columns that kubectl prints, made by the server as in a real cluster.

mod age;
mod nodes;
mod pods;
mod services;
mod simple;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::object;
use super::params::IncludeObject;

/// A column: its heading, and whether only `-o wide` shows it.
struct Column {
    name: &'static str,
    number: bool,
    wide: bool,
}

const fn text(name: &'static str) -> Column {
    Column {
        name,
        number: false,
        wide: false,
    }
}

const fn number(name: &'static str) -> Column {
    Column {
        name,
        number: true,
        wide: false,
    }
}

const fn wide(name: &'static str) -> Column {
    Column {
        name,
        number: false,
        wide: true,
    }
}

/// How to make the table of a kind: its columns, and an object's cells in their order.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

fn printer(kind: &Kind) -> &'static Printer {
    match kind.plural {
        "pods" => &pods::PRINTER,
        "services" => &services::PRINTER,
        "nodes" => &nodes::PRINTER,
        "namespaces" => &simple::NAMESPACES,
        "configmaps" => &simple::CONFIG_MAPS,
        "endpoints" => &services::ENDPOINTS,
        "endpointslices" => &services::ENDPOINT_SLICES,
        "networkpolicies" => &simple::NETWORK_POLICIES,
        "deployments" => &workloads::DEPLOYMENTS,
        "replicasets" => &workloads::REPLICA_SETS,
        "daemonsets" => &workloads::DAEMON_SETS,
        _ => &simple::OTHERS,
    }
}

/// How a table is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// `v1` or `v1beta1` of `meta.k8s.io`.
    pub version: &'static str,
    /// What the rows carry besides their cells.
    pub include: IncludeObject,
    /// Whether to tell the columns; in a watch only the first event does.
    pub headings: bool,
}

/// A table of objects, with the metadata of the list (or of the one object) that it stands for.
pub fn table<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    style: Style,
) -> Value {
    let printer = printer(kind);
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let mut row = json!({"cells": (printer.cells)(object, now)});
            match style.include {
                IncludeObject::Metadata => row["object"] = object::partial(object),
                IncludeObject::Object => row["object"] = object.clone(),
                IncludeObject::None => {}
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{}", style.version),
        "metadata": metadata,
        "columnDefinitions": if style.headings { headings(printer) } else { Vec::new() },
        "rows": rows,
    })
}

fn headings(printer: &Printer) -> Vec<Value> {
    let heading = |column: &Column| {
        json!({
            "name": column.name,
            "type": if column.number { "integer" } else { "string" },
            "format": if column.name == "Name" { "name" } else { "" },
            "description": "",
            "priority": i32::from(column.wide),
        })
    };
    printer.columns.iter().map(heading).collect()
}

/// Text, or `<none>` where there is none.
fn or_none(text: &str) -> Value {
    if text.is_empty() {
        json!("<none>")
    } else {
        json!(text)
    }
}

/// A list in one cell, its items after one another, or `<none>`.
fn joined(items: impl IntoIterator<Item = String>) -> Value {
    let items: Vec<String> = items.into_iter().collect();
    or_none(&items.join(","))
}

/// Labels as `k=v` pairs, or `<none>`.
fn labels(object: &Value, pointer: &str) -> Value {
    let labels = object::map(object, pointer);
    joined(
        labels
            .into_iter()
            .flatten()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))),
    )
}

/// A label selector as kubectl writes it.
fn selector(object: &Value, pointer: &str) -> Value {
    let pairs = object::map(object, &format!("{pointer}/matchLabels"));
    let pairs = pairs.into_iter().flatten();
    let pairs = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")));
    let terms = object::list(object, &format!("{pointer}/matchExpressions"))
        .iter()
        .map(|term| {
            let key = object::text(term, "/key");
            let values: Vec<&str> = object::list(term, "/values")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            match object::text(term, "/operator") {
                "In" => format!("{key} in ({})", values.join(",")),
                "NotIn" => format!("{key} notin ({})", values.join(",")),
                "DoesNotExist" => format!("!{key}"),
                _ => key.to_owned(),
            }
        });
    joined(pairs.chain(terms))
}

#[cfg(test)]
mod tests {
    use super::super::kinds::KINDS;
    use super::*;

    const STYLE: Style = Style {
        version: "v1",
        include: IncludeObject::Metadata,
        headings: true,
    };

    #[test]
    fn every_kind_has_a_cell_for_each_column() {
        for kind in &KINDS {
            for object in [
                json!({"metadata": {"name": "x"}}),
                json!({"spec": 1, "status": "s"}),
            ] {
                let table = table(kind, [&object], json!({}), STYLE);
                let columns = table["columnDefinitions"].as_array().unwrap();
                let cells = table["rows"][0]["cells"].as_array().unwrap();
                assert_eq!(columns.len(), cells.len(), "{}", kind.plural);
                assert!(columns.iter().any(|c| c["name"] == "Age"));
            }
        }
    }
}
