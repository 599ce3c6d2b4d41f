//! Debian's Prometheus in a node's namespace, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nodescope_tests::lab::{Lab, Netns, Proc};
use serde_json::{Value, json};

use crate::common::eventually;

/// Where it listens: on the node's loopback, as the agent's metrics do in a lab.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// It reads the agent and the rules every second.
const CONFIG: &str = "\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files: [rules.yaml]
scrape_configs:
  - job_name: nodescope
    file_sd_configs:
      - files: [targets.json]
        refresh_interval: 1s
";

/// A Prometheus that runs; killed by its id when dropped.
pub struct Prometheus {
    process: Proc,
    netns: Netns,
    targets: PathBuf,
}

impl Prometheus {
    /// Starts it on node 0 with these rules, and nothing to read yet.
    pub fn start(lab: &Lab, rules: &str) -> Result<Self> {
        let dir = lab.run_dir().join("prometheus");
        std::fs::create_dir_all(&dir)?;
        let config = dir.join("prometheus.yml");
        std::fs::write(&config, CONFIG)?;
        std::fs::write(dir.join("rules.yaml"), rules)?;
        let targets = dir.join("targets.json");
        std::fs::write(&targets, "[]")?;
        let netns = lab.node(0);
        let argv = [
            "prometheus".to_owned(),
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            format!("--web.listen-address={LISTEN}"),
            "--log.level=warn".to_owned(),
        ];
        let process = lab.spawn(&netns, argv)?;
        let mut prometheus = Self {
            process,
            netns,
            targets,
        };
        eventually("prometheus is ready", || {
            let running = prometheus.process.is_running();
            ensure!(running, "it ended: {}", prometheus.process.stderr());
            Ok(prometheus.netns.http(LISTEN, "/-/ready")?.0 == 200)
        })?;
        Ok(prometheus)
    }

    /// Tells it of the agent on node 0. It looks at what it is told every five seconds.
    pub fn add_agent(&self, lab: &Lab) -> Result<()> {
        let node = &lab.topology().nodes[0].name;
        let target = json!([{"targets": ["127.0.0.1:9817"], "labels": {"node": node}}]);
        // Renamed into place: it must not read half of it.
        let new = self.targets.with_extension("new");
        std::fs::write(&new, target.to_string())?;
        Ok(std::fs::rename(&new, &self.targets)?)
    }

    /// `data` of an answer of its API.
    fn api(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        pairs.extend_pairs(query);
        let (status, body) = self
            .netns
            .http(LISTEN, &format!("/api/v1/{path}?{}", pairs.finish()))?;
        ensure!(status == 200, "{path} {query:?}: {status} {body}");
        let mut answer: Value = serde_json::from_str(&body)?;
        Ok(answer["data"].take())
    }

    /// The values that a query has now.
    pub fn query(&self, expr: &str) -> Result<Vec<f64>> {
        let data = self.api("query", &[("query", expr)])?;
        let samples = data["result"].as_array().context("no result")?;
        let value = |sample: &Value| sample["value"][1].as_str()?.parse().ok();
        Ok(samples.iter().filter_map(value).collect())
    }

    /// The samples of the one series that a range selector has, the oldest first.
    pub fn samples(&self, selector: &str) -> Result<Vec<f64>> {
        let data = self.api("query", &[("query", selector)])?;
        let series = data["result"].as_array().context("no result")?;
        ensure!(series.len() == 1, "{selector}: {} series", series.len());
        let samples = series[0]["values"].as_array().context("no samples")?;
        let value = |sample: &Value| sample[1].as_str()?.parse().ok();
        let values: Option<_> = samples.iter().map(value).collect();
        values.context("a sample that is no number")
    }

    /// Whether a query has a value that is a number.
    pub fn has_data(&self, expr: &str) -> Result<bool> {
        Ok(self.query(expr)?.iter().any(|value| !value.is_nan()))
    }

    /// The values of a label of a metric's series.
    pub fn label_values(&self, metric: &str, label: &str) -> Result<Vec<String>> {
        let data = self.api(&format!("label/{label}/values"), &[("match[]", metric)])?;
        Ok(serde_json::from_value(data)?)
    }

    /// The alerts that fire.
    pub fn firing(&self) -> Result<BTreeSet<String>> {
        let data = self.api("alerts", &[])?;
        let alerts = data["alerts"].as_array().context("no alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let name = |alert: &Value| alert["labels"]["alertname"].as_str().map(str::to_owned);
        Ok(firing.filter_map(name).collect())
    }

    /// Health of all rules, by name.
    pub fn rules(&self) -> Result<BTreeMap<String, String>> {
        let data = self.api("rules", &[])?;
        let groups = data["groups"].as_array().context("no groups")?;
        let rules = groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten();
        let of_rule = |rule: &Value| {
            let health = format!("{} {}", rule["health"], rule["lastError"]);
            Some((rule["name"].as_str()?.to_owned(), health))
        };
        Ok(rules.filter_map(of_rule).collect())
    }

    /// Its targets: health and last error of each.
    pub fn targets(&self) -> Result<Vec<(String, String)>> {
        let data = self.api("targets", &[("state", "active")])?;
        let targets = data["activeTargets"].as_array().context("no targets")?;
        let word = |target: &Value, key: &str| target[key].as_str().unwrap_or_default().to_owned();
        let both = |target| (word(target, "health"), word(target, "lastError"));
        Ok(targets.iter().map(both).collect())
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}
