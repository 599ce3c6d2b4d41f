//! What the program is made of: every package that is compiled into it, and its licence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::workspace;

/// Packages by name and version, with their licences as SPDX expressions.
pub struct Bill(BTreeMap<(String, String), String>);

impl Bill {
    /// From cargo's own resolution of the workspace, for one target.
    ///
    /// # Errors
    /// Cargo gives none.
    pub fn of(root: &Path, target: &str) -> anyhow::Result<Self> {
        let arguments = ["metadata", "--format-version", "1", "--locked"];
        let mut cargo = workspace::cargo()?;
        cargo.args(arguments).args(["--filter-platform", target]);
        let output = cargo.current_dir(root).output().context("cargo metadata")?;
        let all: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            format!("cargo metadata: {said}")
        })?;
        Ok(Self(compiled_in(&all)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// As a bill of materials (CycloneDX 1.5, JSON).
    ///
    /// # Errors
    /// None that can be thought of: it is made of texts.
    pub fn cyclone_dx(&self) -> anyhow::Result<String> {
        let component = |((name, version), licence): (&(String, String), &String)| {
            json!({
                "type": "library", "name": name, "version": version,
                "purl": format!("pkg:cargo/{name}@{version}"),
                "licenses": [{"expression": licence}],
            })
        };
        let bill = json!({
            "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"component": {
                "type": "application", "name": "nodescope", "version": env!("CARGO_PKG_VERSION"),
            }},
            "components": self.0.iter().map(component).collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&bill)? + "\n")
    }

    /// A line for each licence, with the packages under it.
    pub fn licences(&self) -> String {
        let mut by_licence: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((name, version), licence) in &self.0 {
            let package = format!("{name} {version}");
            by_licence.entry(licence).or_default().push(package);
        }
        let line = |(licence, packages): (&str, Vec<String>)| {
            format!("{licence}\n    {}\n", packages.join("\n    "))
        };
        by_licence.into_iter().map(line).collect()
    }
}

/// What `nodescope` depends on, tools of the build and of tests left out.
fn compiled_in(all: &Value) -> BTreeMap<(String, String), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = all["resolve"]["nodes"].as_array();
    let by_id: BTreeMap<String, &Value> = nodes
        .into_iter()
        .flatten()
        .map(|node| (text(&node["id"]), node))
        .collect();
    let packages = all["packages"].as_array();
    let packages: BTreeMap<String, &Value> = packages
        .into_iter()
        .flatten()
        .map(|package| (text(&package["id"]), package))
        .collect();
    let root = packages
        .iter()
        .find(|(_, package)| package["name"] == "nodescope");
    let mut todo: Vec<String> = root.map(|(id, _)| id.clone()).into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let needs = by_id.get(&id).and_then(|node| node["deps"].as_array());
        for need in needs.into_iter().flatten() {
            let kinds = need["dep_kinds"].as_array();
            let is_normal = |kind: &Value| kind["kind"].is_null();
            if kinds.is_some_and(|kinds| kinds.iter().any(is_normal)) {
                todo.push(text(&need["pkg"]));
            }
        }
    }
    let entry = |id: &String| {
        let package = packages.get(id)?;
        let licence = match &package["license"] {
            Value::String(licence) => licence.replace('/', " OR "),
            _ => format!("LicenseRef-{}", text(&package["name"])),
        };
        Some(((text(&package["name"]), text(&package["version"])), licence))
    };
    seen.iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_of_the_build_are_left_out() {
        let normal = json!([{"kind": null}]);
        let build = json!([{"kind": "build"}]);
        let all = json!({
            "packages": [
                {"id": "n", "name": "nodescope", "version": "1.0.0", "license": "Apache-2.0 OR MIT"},
                {"id": "a", "name": "alpha", "version": "2.0.0", "license": "MIT/Apache-2.0"},
                {"id": "b", "name": "beta", "version": "3.0.0", "license": null},
                {"id": "c", "name": "cc", "version": "4.0.0", "license": "MIT"},
            ],
            "resolve": {"nodes": [
                {"id": "n", "deps": [
                    {"pkg": "a", "dep_kinds": normal}, {"pkg": "c", "dep_kinds": build},
                ]},
                {"id": "a", "deps": [{"pkg": "b", "dep_kinds": normal}]},
                {"id": "b", "deps": []},
                {"id": "c", "deps": []},
            ]},
        });
        let bill = Bill(compiled_in(&all));
        assert_eq!(
            bill.licences(),
            "Apache-2.0 OR MIT\n    nodescope 1.0.0\nLicenseRef-beta\n    beta 3.0.0\n\
             MIT OR Apache-2.0\n    alpha 2.0.0\n"
        );
        let parsed: Value = bill
            .cyclone_dx()
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        assert_eq!(parsed["components"][0]["purl"], "pkg:cargo/alpha@2.0.0");
    }
}
