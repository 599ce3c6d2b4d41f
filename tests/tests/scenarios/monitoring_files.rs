//! The rules and dashboards of `deploy/`, read as Prometheus and Grafana read them, and checked
//! without a lab: by promtool, and against the list of metrics that the agent has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use serde_yaml_ng::Value as Yaml;

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Whether a program of the Debian package `prometheus` is here; says so when it is not.
pub fn is_installed(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        println!("skipped: {program} is not installed (cargo xtask setup brings it)");
    }
    there
}

/// What the test makes of the rules: seconds in place of minutes, and what a lab can reach.
pub struct Faster<'a> {
    /// In place of every range.
    pub range: &'a str,
    /// In place of every `for`.
    pub hold: &'a str,
    /// By alert: a comparison at an end of its expression, and the one in its place.
    pub thresholds: &'a [(&'a str, &'a str, String)],
}

/// The rules file with [`Faster`] times, and the names of its alerts.
pub fn faster_rules(faster: &Faster<'_>) -> Result<(String, BTreeSet<String>)> {
    let text = std::fs::read_to_string(repository("deploy/prometheus/rules.yaml"))?;
    let mut file: Yaml = serde_yaml_ng::from_str(&text)?;
    let mut alerts = BTreeSet::new();
    let groups = file["groups"].as_sequence_mut().context("no groups")?;
    for group in groups {
        group["interval"] = "1s".into();
        let rules = group["rules"].as_sequence_mut().context("no rules")?;
        for rule in rules {
            let mut expr = rule["expr"].as_str().context("no expr")?.to_owned();
            if let Some(alert) = rule["alert"].as_str() {
                let own = faster
                    .thresholds
                    .iter()
                    .filter(|(name, _, _)| *name == alert);
                for (_, from, to) in own {
                    ensure!(expr.matches(from).count() == 1, "{from} in {alert}: {expr}");
                    expr = expr.replace(from, to);
                }
                alerts.insert(alert.to_owned());
            }
            rule["expr"] = with_range(&expr, faster.range).into();
            if rule.get("for").is_some() {
                rule["for"] = faster.hold.into();
            }
        }
    }
    Ok((serde_yaml_ng::to_string(&file)?, alerts))
}

/// The expression with this range in place of `[5m]` and the like.
fn with_range(expr: &str, range: &str) -> String {
    let mut parts = expr.split('[');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (old, rest) = part.split_once(']').unwrap_or((part, ""));
        let unit = old.trim_start_matches(|digit: char| digit.is_ascii_digit());
        let is_range = unit.len() < old.len() && ["s", "m", "h", "d"].contains(&unit);
        let new = if is_range { range } else { old };
        text += &format!("[{new}]{rest}");
    }
    text
}

/// A query of a dashboard.
#[derive(Clone, Debug)]
pub struct Query {
    /// Dashboard and panel.
    pub place: String,
    /// As the dashboard has it.
    pub expr: String,
}

/// A dashboard.
pub struct Dashboard {
    /// The file's name.
    pub file: String,
    /// What is in it.
    pub json: Value,
}

/// All dashboards.
pub fn dashboards() -> Result<Vec<Dashboard>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(repository("deploy/grafana/dashboards"))? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let json = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        all.push(Dashboard {
            file: file.into_owned(),
            json,
        });
    }
    all.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(all)
}

impl Dashboard {
    fn list(&self, pointer: &str) -> impl Iterator<Item = &Value> {
        self.json
            .pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    }

    /// The queries of all panels.
    pub fn queries(&self) -> Vec<Query> {
        let panels = self.list("/panels");
        let of_panel = |panel: &Value| {
            let place = format!("{} {}", self.file, panel["title"]);
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            targets.into_iter().map(move |target| Query {
                place: place.clone(),
                expr: target["expr"].as_str().unwrap_or_default().to_owned(),
            })
        };
        panels.flat_map(of_panel).collect()
    }

    /// The queries of its variables, as the metric and the label whose values are asked for.
    pub fn variables(&self) -> Result<Vec<(String, String)>> {
        let queries = self
            .list("/templating/list")
            .filter(|one| one["type"] == "query");
        let parts = queries.map(|one| {
            let query = one["definition"].as_str().unwrap_or_default();
            let inner = query.strip_prefix("label_values(")?.strip_suffix(')')?;
            let (metric, label) = inner.rsplit_once(", ")?;
            Some((metric.to_owned(), label.to_owned()))
        });
        parts
            .collect::<Option<_>>()
            .with_context(|| format!("a variable of {}", self.file))
    }

    /// An expression with every variable at `All`, Grafana's intervals at `range`, and without
    /// what stands in for no data.
    pub fn substituted(&self, expr: &str, range: &str) -> Result<String> {
        let mut text = expr.replace(" or vector(0)", "");
        for name in ["$__rate_interval", "$__range", "$__interval"] {
            text = text.replace(name, range);
        }
        for variable in self.list("/templating/list") {
            let name = variable["name"].as_str().context("no name")?;
            if let Some(all) = variable["allValue"].as_str() {
                text = text.replace(&format!("${name}"), all);
            }
        }
        ensure!(
            !text.contains('$'),
            "{}: unknown variable in {text}",
            self.file
        );
        Ok(text)
    }
}

/// Words of an expression that look like metrics of the agent or its process.
fn metrics_in(expr: &str) -> BTreeSet<String> {
    let is_word = |one: char| one.is_ascii_alphanumeric() || one == '_' || one == ':';
    expr.split(|one| !is_word(one))
        .filter(|word| word.starts_with("nodescope_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// The names in METRICS.md, which a unit test of the agent holds against the code.
fn listed() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(repository("METRICS.md"))?;
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut names = BTreeSet::new();
    for row in rows {
        let (name, rest) = row.split_once('`').context("a row without a name")?;
        names.insert(name.to_owned());
        if rest.contains("| histogram |") {
            names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
        }
    }
    Ok(names)
}

/// Rules and dashboards name metrics that there are, and recording rules that there are.
#[test]
fn rules_and_dashboards_use_what_the_agent_has() -> Result<()> {
    let listed = listed()?;
    ensure!(listed.len() > 40, "METRICS.md lists {listed:?}");
    let rules = std::fs::read_to_string(repository("deploy/prometheus/rules.yaml"))?;
    let recorded: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .collect();
    let rules: Yaml = serde_yaml_ng::from_str(&rules)?;
    let mut all: Vec<Query> = Vec::new();
    for group in rules["groups"].as_sequence().into_iter().flatten() {
        for rule in group["rules"].as_sequence().into_iter().flatten() {
            let expr = rule["expr"].as_str().context("no expr")?.to_owned();
            all.push(Query {
                place: format!("{rule:?}"),
                expr,
            });
        }
    }
    for dashboard in dashboards()? {
        all.extend(dashboard.queries());
        for (metric, _) in dashboard.variables()? {
            all.push(Query {
                place: dashboard.file.clone(),
                expr: metric,
            });
        }
    }
    for Query { place, expr } in &all {
        for name in metrics_in(expr) {
            assert!(
                listed.contains(&name),
                "{place} uses {name}, which is not in METRICS.md"
            );
        }
        for word in expr.split(|one: char| one.is_whitespace() || "(){}".contains(one)) {
            if word.contains(":nodescope_") {
                assert!(
                    recorded.contains(word),
                    "{place} uses {word}, which no rule records"
                );
            }
        }
    }
    Ok(())
}

/// Dashboards are such as Grafana takes: their own identity, a chosen data source everywhere, the
/// variables of the issue, no panel over another.
#[test]
fn dashboards_are_well_formed() -> Result<()> {
    let all = dashboards()?;
    let names: Vec<_> = all.iter().map(|one| one.file.as_str()).collect();
    let wanted = [
        "agent.json",
        "cluster.json",
        "dns.json",
        "nat.json",
        "node-datapath.json",
        "services-probes.json",
    ];
    assert_eq!(names, wanted);
    let mut uids = BTreeSet::new();
    for dashboard in &all {
        let (file, json) = (&dashboard.file, &dashboard.json);
        assert!(
            uids.insert(json["uid"].to_string()),
            "{file}: its uid is taken"
        );
        assert!(json["schemaVersion"].as_u64() >= Some(39), "{file}");
        let variables: Vec<_> = dashboard.list("/templating/list").collect();
        for name in ["datasource", "node"] {
            assert!(
                variables.iter().any(|one| one["name"] == name),
                "{file}: no ${name}"
            );
        }
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard.list("/panels") {
            assert!(
                ids.insert(panel["id"].to_string()),
                "{file}: two of {panel}"
            );
            let place = |key: &str| panel["gridPos"][key].as_u64().context("no place");
            let (x, y, w, h) = (place("x")?, place("y")?, place("w")?, place("h")?);
            assert!(x + w <= 24, "{file}: {} is too wide", panel["title"]);
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(
                    cells.insert(cell),
                    "{file}: {} covers another",
                    panel["title"]
                );
            }
            if panel["type"] != "row" {
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{file}");
                let targets = panel["targets"].as_array().context("no targets")?;
                assert!(!targets.is_empty(), "{file}: {}", panel["title"]);
                let chosen = |one: &Value| one["datasource"]["uid"] == "${datasource}";
                assert!(targets.iter().all(chosen), "{file}: {}", panel["title"]);
            }
        }
        for query in dashboard.queries() {
            dashboard
                .substituted(&query.expr, "1m")
                .context(query.place)?;
        }
    }
    Ok(())
}

/// The rules' own tests, and promtool's opinion of them.
#[test]
fn promtool_passes_the_rules_and_their_tests() -> Result<()> {
    if !is_installed("promtool") {
        return Ok(());
    }
    let dir = repository("deploy/prometheus");
    for args in [
        &["check", "rules", "rules.yaml"][..],
        &["test", "rules", "rules.test.yaml"],
    ] {
        let output = Command::new("promtool")
            .args(args)
            .current_dir(&dir)
            .output()?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "promtool {args:?}: {}{}",
            said(&output.stdout),
            said(&output.stderr)
        );
    }
    // Debian's Prometheus is built without Kubernetes' targets, so that it cannot read this file.
    let scrape = std::fs::read_to_string(dir.join("scrape.yaml"))?;
    let scrape: Yaml = serde_yaml_ng::from_str(&scrape)?;
    let job = &scrape["scrape_configs"][0];
    assert_eq!(job["job_name"], "nodescope");
    let relabel = job["relabel_configs"].as_sequence().context("no labels")?;
    assert!(relabel.iter().any(|one| one["target_label"] == "node"));
    // Each alert has a case in which it fires.
    let tests = std::fs::read_to_string(dir.join("rules.test.yaml"))?;
    let tests: Yaml = serde_yaml_ng::from_str(&tests)?;
    let mut fired = BTreeSet::new();
    for test in tests["tests"].as_sequence().into_iter().flatten() {
        for case in test["alert_rule_test"].as_sequence().into_iter().flatten() {
            if case["exp_alerts"]
                .as_sequence()
                .is_some_and(|all| !all.is_empty())
            {
                fired.insert(case["alertname"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    let faster = Faster {
        range: "5m",
        hold: "1m",
        thresholds: &[],
    };
    let (_, alerts) = faster_rules(&faster)?;
    assert_eq!(fired, alerts);
    Ok(())
}
