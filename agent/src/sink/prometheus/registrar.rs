//! Where metrics are made: each is registered, and written down for the page that lists them.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry,
};

use super::Error;
use super::family::Family;
use super::mirror::Mirror;
use super::room::Room;
use super::snapshot::Snapshot;

/// Prefix of the names of all metrics but those that every program has.
const NAMESPACE: &str = "nodescope";

/// The section of metrics about metrics.
pub(super) const ABOUT_METRICS: &str = "Metrics themselves";

/// Counts what the limit of series folded, by metric.
const LIMITED: &str = "metric_series_limited_total";

/// A metric as its reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// What it is about, in words: metrics of one section come one after the other.
    pub section: &'static str,
    /// Name of the samples; those of a histogram have `_bucket`, `_sum` and `_count` behind it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// What it says, a sentence.
    pub help: String,
    /// Whether its series are limited in number.
    pub limited: bool,
}

/// See the file.
pub(super) struct Registrar {
    registry: Registry,
    catalog: Vec<Described>,
    section: &'static str,
    max_series: usize,
    limited: IntCounterVec,
}

impl Registrar {
    /// One whose limited metrics have no more than `max_series` series, and one for the rest.
    pub(super) fn new(max_series: usize) -> Result<Self, Error> {
        let help = "Additions to a metric that went to the series `other` for want of room.";
        let mut new = Self {
            registry: Registry::new(),
            catalog: Vec::new(),
            section: ABOUT_METRICS,
            max_series,
            limited: IntCounterVec::new(opts(LIMITED, help), &["metric"])?,
        };
        let limited = new.limited.clone();
        new.own("counter", LIMITED, help, &["metric"], limited)?;
        Ok(new)
    }

    /// What the metrics after this are about.
    pub(super) fn section(&mut self, about: &'static str) {
        self.section = about;
    }

    /// The metrics, and their descriptions in the order in which they were made.
    pub(super) fn done(self) -> (Registry, Vec<Described>) {
        (self.registry, self.catalog)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) -> Result<IntCounter, Error> {
        let counter = IntCounter::with_opts(opts(name, help))?;
        self.own("counter", name, help, &[], counter)
    }

    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, Error> {
        let counters = IntCounterVec::new(opts(name, help), labels)?;
        self.own("counter", name, help, labels, counters)
    }

    /// Counters of what comes in fractions.
    pub(super) fn float_counters(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<CounterVec, Error> {
        let counters = CounterVec::new(opts(name, help), labels)?;
        self.own("counter", name, help, labels, counters)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Result<IntGauge, Error> {
        let gauge = IntGauge::with_opts(opts(name, help))?;
        self.own("gauge", name, help, &[], gauge)
    }

    pub(super) fn gauges(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, Error> {
        let gauges = IntGaugeVec::new(opts(name, help), labels)?;
        self.own("gauge", name, help, labels, gauges)
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, Error> {
        let histogram = Histogram::with_opts(spread(name, help, buckets))?;
        self.own("histogram", name, help, &[], histogram)
    }

    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let histograms = HistogramVec::new(spread(name, help, buckets), labels)?;
        self.own("histogram", name, help, labels, histograms)
    }

    /// A counter with labels from the outside world.
    pub(super) fn family(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<Family, Error> {
        let counters = self.counters(name, help, labels)?;
        Ok(Family::new(counters, self.room()?))
    }

    /// A counter that shows what another holds.
    pub(super) fn mirror(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<Mirror, Error> {
        let counters = self.counters(name, help, labels)?;
        Ok(Mirror::new(counters, self.room()?))
    }

    /// A gauge whose series are told all at once.
    pub(super) fn snapshot(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<Snapshot, Error> {
        let gauges = self.gauges(name, help, labels)?;
        Ok(Snapshot::new(gauges, labels.len(), self.room()?))
    }

    /// A gauge of seconds with labels from the outside world, and the room for them.
    pub(super) fn times(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<(GaugeVec, Room), Error> {
        let gauges = GaugeVec::new(opts(name, help), labels)?;
        let gauges = self.own("gauge", name, help, labels, gauges)?;
        Ok((gauges, self.room()?))
    }

    /// A metric by the name that every program gives it, without this one's prefix.
    pub(super) fn common<C: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        name: &str,
        help: &str,
        metric: C,
    ) -> Result<C, Error> {
        self.register(kind, name.to_owned(), help, &[], metric)
    }

    fn own<C: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        name: &str,
        help: &str,
        labels: &[&str],
        metric: C,
    ) -> Result<C, Error> {
        let name = format!("{NAMESPACE}_{name}");
        self.register(kind, name, help, labels, metric)
    }

    fn register<C: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        name: String,
        help: &str,
        labels: &[&str],
        metric: C,
    ) -> Result<C, Error> {
        self.registry.register(Box::new(metric.clone()))?;
        self.catalog.push(Described {
            section: self.section,
            name,
            kind,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            help: help.to_owned(),
            limited: false,
        });
        Ok(metric)
    }

    /// Room for the series of the metric that was made last.
    fn room(&mut self) -> Result<Room, Error> {
        let mut name = "";
        if let Some(last) = self.catalog.last_mut() {
            last.limited = true;
            name = &last.name;
        }
        let limited = self.limited.get_metric_with_label_values(&[name])?;
        Ok(Room::new(self.max_series, limited))
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

fn spread(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(name, help)
        .namespace(NAMESPACE)
        .buckets(buckets.to_vec())
}
