//! Legs of several nodes joined into paths.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::path_leg::{Leg, Pair};

/// Clocks of two nodes may be apart by so much, and a leg be seen late by so much.
const SLACK: Duration = Duration::from_secs(10);

/// A connection over all nodes that saw it, the initiator's first.
#[derive(Clone, Debug)]
pub struct Path {
    /// At least one.
    pub legs: Vec<Leg>,
}

/// The newest leg of each connection of each node.
pub fn newest(legs: impl IntoIterator<Item = Leg>) -> Vec<Leg> {
    let mut newest: HashMap<(String, String), Leg> = HashMap::new();
    for leg in legs {
        let key = (leg.node.clone(), leg.connection.clone());
        match newest.get(&key) {
            Some(known) if known.time > leg.time => {}
            _ => drop(newest.insert(key, leg)),
        }
    }
    let mut legs: Vec<Leg> = newest.into_values().collect();
    legs.sort_by(|a, b| {
        (a.started, &a.node, &a.connection).cmp(&(b.started, &b.node, &b.connection))
    });
    legs
}

/// Joins legs: what one node sends out is what the next one gets, whether under the tuple that
/// the initiator chose or under the one that the first node made of it.
pub fn join(legs: Vec<Leg>) -> Vec<Path> {
    let mut by_original: HashMap<(&str, Pair), Vec<usize>> = HashMap::new();
    for (index, leg) in legs.iter().enumerate().filter(|(_, leg)| leg.arrives()) {
        let key = (leg.protocol.as_str(), leg.original);
        by_original.entry(key).or_default().push(index);
    }
    let mut pairs: Vec<(Duration, usize, usize)> = Vec::new();
    for (index, leg) in legs.iter().enumerate().filter(|(_, leg)| leg.leaves()) {
        let key = (leg.protocol.as_str(), leg.translated);
        for &next in by_original.get(&key).into_iter().flatten() {
            if leg.node != legs[next].node && meet(leg, &legs[next]) {
                pairs.push((apart(leg, &legs[next]), index, next));
            }
        }
    }
    // Tuples come again: those that began nearest to each other belong together.
    pairs.sort_unstable();
    let (mut next_of, mut taken) = (HashMap::new(), HashSet::new());
    for (_, from, to) in pairs {
        if !next_of.contains_key(&from) && taken.insert(to) {
            next_of.insert(from, to);
        }
    }
    let mut slots: Vec<Option<Leg>> = legs.into_iter().map(Some).collect();
    // Beginnings first; whatever is in a circle then begins where it is met.
    let order: Vec<usize> = (0..slots.len())
        .filter(|index| !taken.contains(index))
        .chain(taken.iter().copied())
        .collect();
    let mut paths = Vec::new();
    for start in order {
        let (mut legs, mut here) = (Vec::new(), Some(start));
        while let Some(leg) = here.and_then(|index| slots[index].take()) {
            legs.push(leg);
            here = here.and_then(|index| next_of.get(&index).copied());
        }
        if !legs.is_empty() {
            paths.push(Path { legs });
        }
    }
    paths.sort_by_key(|path| path.legs.first().map(|leg| leg.started));
    paths
}

fn meet(a: &Leg, b: &Leg) -> bool {
    a.started <= b.time + SLACK && b.started <= a.time + SLACK
}

fn apart(a: &Leg, b: &Leg) -> Duration {
    let ahead = a.started.duration_since(b.started);
    ahead.unwrap_or_else(|behind| behind.duration())
}
