//! The OpenMetrics text format, version 1.0.0, and which format a reader wants.
//!
//! <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// A form of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What an `Accept` header asks for (RFC 9110, 12.5.1): the one of greater weight, OpenMetrics
    /// when both have the same, and text when it names neither.
    pub fn accepted(accept: &str) -> Self {
        let (mut text, mut open) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1.0_f32, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match (media.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0")) => open = weight.max(open),
                ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => {
                    text = weight.max(text);
                }
                _ => {}
            }
        }
        if open > 0.0 && open >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

/// Families as OpenMetrics.
pub(super) fn write(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a String does not fail.
        let _ = write_family(&mut text, family);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(text: &mut String, family: &MetricFamily) -> std::fmt::Result {
    let kind = family.get_field_type();
    let (name, word) = match kind {
        // The family is called as its samples, without their suffix.
        MetricType::COUNTER => (
            family
                .name()
                .strip_suffix("_total")
                .unwrap_or(family.name()),
            "counter",
        ),
        MetricType::GAUGE => (family.name(), "gauge"),
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        MetricType::SUMMARY | MetricType::UNTYPED => (family.name(), "unknown"),
    };
    writeln!(text, "# TYPE {name} {word}")?;
    writeln!(text, "# HELP {name} {}", escaped(family.help()))?;
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match kind {
            MetricType::COUNTER => {
                let value = metric.get_counter().get_value();
                sample(text, name, "_total", labels, None, value)?;
            }
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                let count = histogram.get_sample_count() as f64;
                for bucket in histogram.get_bucket() {
                    let bound = canonical(bucket.upper_bound());
                    let below = bucket.cumulative_count() as f64;
                    sample(text, name, "_bucket", labels, Some(&bound), below)?;
                }
                sample(text, name, "_bucket", labels, Some("+Inf"), count)?;
                sample(text, name, "_sum", labels, None, histogram.get_sample_sum())?;
                sample(text, name, "_count", labels, None, count)?;
            }
            _ => sample(text, name, "", labels, None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

fn sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Option<&str>,
    value: f64,
) -> std::fmt::Result {
    text.push_str(name);
    text.push_str(suffix);
    let own = labels.iter().map(|label| (label.name(), label.value()));
    let mut separator = '{';
    for (label, value) in own.chain(bound.map(|bound| ("le", bound))) {
        write!(text, "{separator}{label}=\"{}\"", escaped(value))?;
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    writeln!(text, " {}", number(value))
}

/// A bound as every writer has to write it: `1.0`, not `1`.
fn canonical(bound: f64) -> String {
    format!("{bound:?}")
}

fn number(value: f64) -> String {
    if value.is_infinite() {
        let sign = if value > 0.0 { "+" } else { "-" };
        return format!("{sign}Inf");
    }
    value.to_string()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::prometheus::registrar::Registrar;

    #[test]
    fn readers_get_what_they_ask_for() {
        for (accept, wanted) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain", Format::Text),
            ("image/png", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            // Prometheus 2.42 and 3.
            (
                "application/openmetrics-text;version=1.0.0,\
                 application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            (
                "text/plain;version=0.0.4, application/openmetrics-text; version=1.0.0; q=0.5",
                Format::Text,
            ),
            ("application/openmetrics-text;version=2.0.0", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=x, ;;=,", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), wanted, "{accept}");
        }
    }

    #[test]
    fn families_are_written_as_the_standard_says() -> anyhow::Result<()> {
        let mut registrar = Registrar::new(1)?;
        let counters = registrar.counters("sent_total", "Sent \\ \"so\".", &["to"])?;
        counters.with_label_values(&["a\"b\\c\nd"]).inc_by(3);
        registrar.gauge("depth", "Depth.")?.set(-2);
        registrar
            .histogram("wait_seconds", "Wait.", &[0.5, 1.0])?
            .observe(0.75);
        let (registry, _) = registrar.done();
        let said = write(&registry.gather());
        let wanted = "# TYPE nodescope_depth gauge\n\
                      # HELP nodescope_depth Depth.\n\
                      nodescope_depth -2\n\
                      # TYPE nodescope_sent counter\n\
                      # HELP nodescope_sent Sent \\\\ \\\"so\\\".\n\
                      nodescope_sent_total{to=\"a\\\"b\\\\c\\nd\"} 3\n\
                      # TYPE nodescope_wait_seconds histogram\n\
                      # HELP nodescope_wait_seconds Wait.\n\
                      nodescope_wait_seconds_bucket{le=\"0.5\"} 0\n\
                      nodescope_wait_seconds_bucket{le=\"1.0\"} 1\n\
                      nodescope_wait_seconds_bucket{le=\"+Inf\"} 1\n\
                      nodescope_wait_seconds_sum 0.75\n\
                      nodescope_wait_seconds_count 1\n\
                      # EOF\n";
        assert_eq!(said, wanted);
        Ok(())
    }
}
