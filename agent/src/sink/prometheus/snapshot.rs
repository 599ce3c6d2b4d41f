//! Gauges whose series are told all at once: those that are not named any more are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::IntGaugeVec;

use super::room::{OTHER, Room};

/// A gauge with the series that it shows.
pub(super) struct Snapshot {
    gauges: IntGaugeVec,
    labels: usize,
    shown: Mutex<(BTreeSet<Vec<String>>, Room)>,
}

impl Snapshot {
    pub(super) fn new(gauges: IntGaugeVec, labels: usize, room: Room) -> Self {
        Self {
            gauges,
            labels,
            shown: Mutex::new((BTreeSet::new(), room)),
        }
    }

    /// Takes over what is now, by label values, the most telling first: those after the limit
    /// add up in the series for the rest. At no moment is a series missing that stays.
    pub(super) fn set<L: AsRef<str>>(&self, all: impl IntoIterator<Item = (Vec<L>, u64)>) {
        let mut locked = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (shown, room) = &mut *locked;
        let mut now: BTreeMap<Vec<String>, i64> = BTreeMap::new();
        // Room is for those of now: what was before has none to keep.
        for labels in shown.iter() {
            room.give_up(&words(labels));
        }
        let at = Instant::now();
        for (labels, value) in all {
            let labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
            let own = room.take(&labels, at);
            if !own {
                room.limit();
            }
            let labels = match own {
                true => labels.into_iter().map(str::to_owned).collect(),
                false => vec![OTHER.to_owned(); self.labels],
            };
            let sum = now.entry(labels).or_default();
            *sum = sum.saturating_add(i64::try_from(value).unwrap_or(i64::MAX));
        }
        for (labels, value) in &now {
            self.gauges.with_label_values(&words(labels)).set(*value);
        }
        for gone in shown.iter().filter(|labels| !now.contains_key(*labels)) {
            // A series that is not there has nothing to drop.
            let _ = self.gauges.remove_label_values(&words(gone));
        }
        *shown = now.into_keys().collect();
    }
}

fn words(labels: &[String]) -> Vec<&str> {
    labels.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use crate::sink::prometheus::registrar::Registrar;
    use prometheus::{Encoder as _, Registry, TextEncoder};

    type Tested = anyhow::Result<()>;

    fn text(registry: &Registry) -> anyhow::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text)?;
        Ok(String::from_utf8(text)?)
    }

    #[test]
    fn destinations_come_and_go_and_are_bounded() -> Tested {
        let mut registrar = Registrar::new(2)?;
        let ports = registrar.snapshot("ports", "Ports.", &["destination"])?;
        let (registry, _) = registrar.done();
        let named = |pairs: &[(&'static str, u64)]| -> Vec<_> {
            let pairs = pairs.iter();
            pairs.map(|(name, ports)| (vec![*name], *ports)).collect()
        };
        ports.set(named(&[("a", 9), ("b", 5), ("c", 3), ("d", 1)]));
        let said = text(&registry)?;
        for line in [
            "nodescope_ports{destination=\"a\"} 9",
            "nodescope_ports{destination=\"other\"} 4",
            "nodescope_metric_series_limited_total{metric=\"nodescope_ports\"} 2",
        ] {
            assert!(said.contains(line), "{line} not in {said}");
        }
        ports.set(named(&[("b", 6), ("c", 2)]));
        let said = text(&registry)?;
        assert!(said.contains("{destination=\"b\"} 6"), "{said}");
        assert!(said.contains("{destination=\"c\"} 2"), "{said}");
        assert!(
            !said.contains("\"a\"") && !said.contains("\"other\""),
            "{said}"
        );
        Ok(())
    }
}
