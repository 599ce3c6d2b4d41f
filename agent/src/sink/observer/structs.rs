//! `google.protobuf.Struct`: packing, building and reading.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Any, ListValue, Struct, Value};

/// Type URL of a `Struct` in an `Any`; stock clients drop a line with any other type.
pub const STRUCT_URL: &str = "type.googleapis.com/google.protobuf.Struct";

/// Fields of a `Struct`.
pub type Fields = BTreeMap<String, Value>;

/// Packs a `Struct` into an `Any`.
pub fn pack(fields: Fields) -> Any {
    Any {
        type_url: STRUCT_URL.to_owned(),
        value: Struct { fields }.encode_to_vec(),
    }
}

/// Unpacks a `Struct`; `None` when it is of another type or does not decode.
pub fn unpack(any: &Any) -> Option<Fields> {
    if any.type_url != STRUCT_URL {
        return None;
    }
    Struct::decode(any.value.as_slice())
        .ok()
        .map(|decoded| decoded.fields)
}

/// What can stand in a `Struct`.
pub trait IntoValue {
    /// The value.
    fn into_value(self) -> Value;
}

impl IntoValue for Value {
    fn into_value(self) -> Value {
        self
    }
}

impl IntoValue for &str {
    fn into_value(self) -> Value {
        Value {
            kind: Some(Kind::StringValue(self.to_owned())),
        }
    }
}

impl IntoValue for String {
    fn into_value(self) -> Value {
        Value {
            kind: Some(Kind::StringValue(self)),
        }
    }
}

impl IntoValue for f64 {
    fn into_value(self) -> Value {
        Value {
            kind: Some(Kind::NumberValue(self)),
        }
    }
}

impl IntoValue for bool {
    fn into_value(self) -> Value {
        Value {
            kind: Some(Kind::BoolValue(self)),
        }
    }
}

impl IntoValue for Fields {
    fn into_value(self) -> Value {
        Value {
            kind: Some(Kind::StructValue(Struct { fields: self })),
        }
    }
}

impl IntoValue for Vec<Value> {
    fn into_value(self) -> Value {
        Value {
            kind: Some(Kind::ListValue(ListValue { values: self })),
        }
    }
}

/// Adds a value.
pub fn put(fields: &mut Fields, key: &str, value: impl IntoValue) {
    fields.insert(key.to_owned(), value.into_value());
}

/// The value at a path of keys.
pub fn at<'a>(fields: &'a Fields, path: &[&str]) -> Option<&'a Value> {
    let (last, parents) = path.split_last()?;
    let mut here = fields;
    for key in parents {
        let Some(Kind::StructValue(inner)) = &here.get(*key)?.kind else {
            return None;
        };
        here = &inner.fields;
    }
    here.get(*last)
}

/// The text at a path of keys.
pub fn text<'a>(fields: &'a Fields, path: &[&str]) -> Option<&'a str> {
    match &at(fields, path)?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// The number at a path of keys.
pub fn number(fields: &Fields, path: &[&str]) -> Option<f64> {
    match at(fields, path)?.kind {
        Some(Kind::NumberValue(number)) => Some(number),
        _ => None,
    }
}

/// The truth value at a path of keys.
pub fn flag(fields: &Fields, path: &[&str]) -> Option<bool> {
    match at(fields, path)?.kind {
        Some(Kind::BoolValue(flag)) => Some(flag),
        _ => None,
    }
}

/// The list at a path of keys; empty when there is none.
pub fn list<'a>(fields: &'a Fields, path: &[&str]) -> &'a [Value] {
    match at(fields, path).map(|value| &value.kind) {
        Some(Some(Kind::ListValue(list))) => &list.values,
        _ => &[],
    }
}

/// The fields of a value that is a `Struct`.
pub fn fields(value: &Value) -> Option<&Fields> {
    match &value.kind {
        Some(Kind::StructValue(inner)) => Some(&inner.fields),
        _ => None,
    }
}
