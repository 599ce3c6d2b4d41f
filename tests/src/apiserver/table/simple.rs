//! The columns of kinds with little to show.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::age;
use super::{Column, Printer, selector, text};
use crate::apiserver::object;

pub(super) const NAMESPACES: Printer = Printer {
    columns: &[text("Name"), text("Status"), text("Age")],
    cells: |o, now| row(o, now, Some(json!(object::text(o, "/status/phase")))),
};

pub(super) const CONFIG_MAPS: Printer = Printer {
    columns: &[text("Name"), text("Data"), text("Age")],
    cells: |o, now| {
        let count = |field: &str| object::map(o, field).map_or(0, serde_json::Map::len);
        row(o, now, Some(json!(count("/data") + count("/binaryData"))))
    },
};

pub(super) const NETWORK_POLICIES: Printer = Printer {
    columns: &[text("Name"), text("Pod-Selector"), text("Age")],
    cells: |o, now| row(o, now, Some(selector(o, "/spec/podSelector"))),
};

pub(super) const OTHERS: Printer = Printer {
    columns: &PLAIN,
    cells: |o, now| row(o, now, None),
};

const PLAIN: [Column; 2] = [text("Name"), text("Age")];

fn row(object: &Value, now: Timestamp, middle: Option<Value>) -> Vec<Value> {
    let mut row = vec![json!(object::name(object))];
    row.extend(middle);
    row.push(json!(age(object, now)));
    row
}
