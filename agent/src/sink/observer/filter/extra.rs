//! Conditions of nodescope's own, which travel in `GetFlowsRequest.extensions`.

use prost_types::value::Kind;
use prost_types::{Any, Value};

use super::{Error, Test, View, any};
use crate::sink::names;
use crate::sink::observer::structs::{self, Fields, IntoValue as _, put};
use crate::sink::proto::observer::GetFlowsRequest;

/// Conditions that `FlowFilter` has no field for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// Classes, as their words; any when empty.
    pub classes: Vec<String>,
    /// Only flows whose initiator was translated, or only those where it was not.
    pub snat: Option<bool>,
    /// Address and port filters match the translation tuples too.
    pub nat_tuples: bool,
}

const FIELD: &str = "extensions";

impl Extra {
    /// Reads them from a request. Extensions of another type are for others.
    ///
    /// # Errors
    /// When a key or its value is not known: a condition ignored would show too much.
    pub fn of(request: &GetFlowsRequest) -> Result<Self, Error> {
        let mut extra = Self::default();
        let Some(fields) = request.extensions.as_ref().and_then(structs::unpack) else {
            return Ok(extra);
        };
        for (key, Value { kind }) in &fields {
            match (key.as_str(), kind) {
                ("class", Some(Kind::ListValue(list))) => {
                    extra.classes = list
                        .values
                        .iter()
                        .map(class)
                        .collect::<Result<Vec<_>, _>>()?;
                }
                ("snat", Some(Kind::BoolValue(snat))) => extra.snat = Some(*snat),
                ("nat_tuples", Some(Kind::BoolValue(nat))) => extra.nat_tuples = *nat,
                _ => {
                    let wanted = "a condition (class: list, snat: bool, nat_tuples: bool)";
                    return Err(Error::new(FIELD, key, wanted));
                }
            }
        }
        Ok(extra)
    }

    /// For a request; `None` when there are no conditions.
    pub fn pack(&self) -> Option<Any> {
        let Self {
            classes,
            snat,
            nat_tuples,
        } = self;
        let mut fields = Fields::new();
        if !classes.is_empty() {
            let words: Vec<_> = classes
                .iter()
                .map(|class| class.as_str().into_value())
                .collect();
            put(&mut fields, "class", words);
        }
        if let Some(snat) = snat {
            put(&mut fields, "snat", *snat);
        }
        if *nat_tuples {
            put(&mut fields, "nat_tuples", true);
        }
        (!fields.is_empty()).then(|| structs::pack(fields))
    }

    pub(super) fn tests(self) -> Vec<Test> {
        let mut tests: Vec<Test> = any(self.classes, |view, class| {
            structs::text(view.fields(), &["class"]) == Some(class)
        })
        .into_iter()
        .collect();
        if let Some(wanted) = self.snat {
            tests.push(Box::new(move |view: &View<'_>| {
                let kind = structs::text(view.fields(), &["nat", "kind"]);
                matches!(kind, Some("snat" | "both")) == wanted
            }));
        }
        tests
    }
}

fn class(value: &Value) -> Result<String, Error> {
    let word = match &value.kind {
        Some(Kind::StringValue(word)) => word.as_str(),
        _ => "",
    };
    if names::CLASSES.iter().any(|(_, name)| *name == word) {
        Ok(word.to_owned())
    } else {
        Err(Error::new(FIELD, word, "a class"))
    }
}
