//! The page that lists every metric.

use std::fmt::Write as _;

use super::Described;

/// What the page says before and after its tables. The names of labels and flags are in
/// `labels.rs` and in the configuration.
const HEAD: &str = "\
# Metrics

`nodescope agent` serves these at `/metrics` on port 9817 (`--listen-metrics`), in OpenMetrics or in
Prometheus' text format, as the reader asks by `Accept`. This page is written from the code: after a
change to a metric, `NODESCOPE_WRITE=1 cargo test -p nodescope --lib page` writes it anew.

- Labels that begin with `source_` and `destination_` are those that `--metrics-labels` chooses:
  `namespace`, `workload` and `pod` of both ends; without it namespace and workload. They are empty
  where an end has none, as the outside world.
- A metric marked with * has no more than `--metrics-max-series` series (10000); what comes after
  is added up in one whose labels all say `other`, and counted in
  `nodescope_metric_series_limited_total`.
- A series that names a pod, workload or service that is gone stays for `--metrics-expiry` (10m)
  after the last that was counted, one of an interface goes with it. If the name comes back, its
  counters begin at zero, which `rate` and `increase` take for what it is: a reset, and new counts.
- Of a metric without labels there is a series from the start; others come with what they count.
";

const TAIL: &str = "
`deploy/prometheus/rules.yaml` has recording and alerting rules over these, and
`deploy/grafana/dashboards` has dashboards.
";

/// The page in Markdown.
#[must_use]
pub fn page(catalog: &[Described]) -> String {
    let mut sections: Vec<&str> = Vec::new();
    for metric in catalog {
        if !sections.contains(&metric.section) {
            sections.push(metric.section);
        }
    }
    // What is about metrics comes last.
    sections.sort_by_key(|section| *section == super::registrar::ABOUT_METRICS);
    let mut text = HEAD.to_owned();
    for section in sections {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "\n## {section}\n\n| metric | type | labels | |\n|---|---|---|---|\n"
        );
        for metric in catalog.iter().filter(|metric| metric.section == section) {
            let labels: Vec<_> = metric
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect();
            let star = if metric.limited { "*" } else { "" };
            let _ = writeln!(
                text,
                "| `{}`{star} | {} | {} | {} |",
                metric.name,
                metric.kind,
                labels.join(" "),
                metric.help
            );
        }
    }
    text + TAIL
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, Options};
    use super::*;

    /// The page in the repository is the one that the code writes.
    #[test]
    fn the_page_says_what_there_is() -> anyhow::Result<()> {
        let metrics = Metrics::new(&Options::default())?;
        let wanted = page(metrics.catalog());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../METRICS.md");
        if std::env::var_os("NODESCOPE_WRITE").is_some_and(|write| write == "1") {
            std::fs::write(path, &wanted)?;
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == wanted,
            "METRICS.md is not what the code says; run \
             `NODESCOPE_WRITE=1 cargo test -p nodescope --lib page`"
        );
        Ok(())
    }

    /// What promtool asks of names and helps, of all metrics, those without series too.
    #[test]
    fn every_metric_is_named_as_the_conventions_say() -> anyhow::Result<()> {
        let metrics = Metrics::new(&Options::default())?;
        for one in metrics.catalog() {
            let Described {
                name, kind, help, ..
            } = one;
            let own = name.starts_with("nodescope_") || name.starts_with("process_");
            assert!(own, "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
            if *kind == "histogram" {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert!(
                help.ends_with('.') && !help.contains("  "),
                "{name}: {help}"
            );
            for reserved in ["_count", "_sum", "_bucket", "_created"] {
                assert!(!name.ends_with(reserved), "{name}");
            }
        }
        Ok(())
    }
}
