//! Source ports that translations take up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use prometheus::{IntGaugeVec, Registry};

use super::{Error, family};

/// The value of the label for destinations that have no series of their own.
const OTHER: &str = "other";

pub(super) struct SnatPorts {
    in_use: IntGaugeVec,
    shown: Mutex<BTreeSet<String>>,
    max_series: usize,
}

impl SnatPorts {
    pub(super) fn new(registry: &Registry, max_series: usize) -> Result<Self, Error> {
        let in_use = IntGaugeVec::new(
            family::opts(
                "snat_ports_in_use",
                "Source ports of this node that open connections use, by destination.",
            ),
            &["destination"],
        )?;
        registry.register(Box::new(in_use.clone()))?;
        Ok(Self {
            in_use,
            shown: Mutex::new(BTreeSet::new()),
            max_series,
        })
    }

    /// Takes over what is in use now, by destination, most first; those that are not named any
    /// more lose their series.
    pub(super) fn set(&self, in_use: impl Iterator<Item = (String, usize)>) {
        let mut now: BTreeMap<String, i64> = BTreeMap::new();
        for (destination, ports) in in_use {
            let ports = i64::try_from(ports).unwrap_or(i64::MAX);
            let has_series = now.contains_key(&destination) || now.len() < self.max_series;
            let name = if has_series {
                destination
            } else {
                OTHER.to_owned()
            };
            let sum = now.entry(name).or_default();
            *sum = sum.saturating_add(ports);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.iter().filter(|name| !now.contains_key(*name)) {
            // A series that is not there has nothing to drop.
            let _ = self.in_use.remove_label_values(&[gone.as_str()]);
        }
        for (name, ports) in &now {
            self.in_use.with_label_values(&[name.as_str()]).set(*ports);
        }
        *shown = now.into_keys().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder as _, TextEncoder};

    fn text(registry: &Registry) -> Result<String, Box<dyn std::error::Error>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text)?;
        Ok(String::from_utf8(text)?)
    }

    #[test]
    fn destinations_come_and_go_and_are_bounded() -> Result<(), Box<dyn std::error::Error>> {
        let registry = Registry::new();
        let ports = SnatPorts::new(&registry, 2)?;
        let named = |pairs: &[(&str, usize)]| -> Vec<(String, usize)> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, ports)| ((*name).to_owned(), *ports))
                .collect()
        };
        ports.set(named(&[("a", 9), ("b", 5), ("c", 3), ("d", 1)]).into_iter());
        let said = text(&registry)?;
        assert!(
            said.contains("snat_ports_in_use{destination=\"a\"} 9"),
            "{said}"
        );
        assert!(
            said.contains("snat_ports_in_use{destination=\"other\"} 4"),
            "{said}"
        );
        ports.set(named(&[("b", 6)]).into_iter());
        let said = text(&registry)?;
        assert!(
            said.contains("snat_ports_in_use{destination=\"b\"} 6"),
            "{said}"
        );
        assert!(!said.contains("\"a\"") && !said.contains("other"), "{said}");
        Ok(())
    }
}
