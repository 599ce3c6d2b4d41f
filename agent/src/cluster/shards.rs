//! A map of which a copy costs little, and so does a change after a copy.
//!
//! A copy shares all parts with the original; the first change to a part after that copies this
//! part alone. Maps made of trees do the same in smaller steps, at several times the memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use ahash::RandomState;

/// Parts: of 50,000 entries each has 200.
const PARTS: usize = 256;

/// A map in parts.
#[derive(Clone, Debug)]
pub(super) struct Shards<K, V> {
    hasher: RandomState,
    parts: Box<[Arc<HashMap<K, V, RandomState>>]>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let hasher = RandomState::new();
        let empty = Arc::new(HashMap::with_hasher(hasher.clone()));
        Self {
            hasher,
            parts: vec![empty; PARTS].into(),
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    /// Not the bits that the maps within look at: those would be the same for all in a part.
    fn part(&self, key: &K) -> usize {
        (self.hasher.hash_one(key) >> 32) as usize % PARTS
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.parts[self.part(key)].get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let part = self.part(&key);
        Arc::make_mut(&mut self.parts[part]).insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) {
        let part = self.part(key);
        if self.parts[part].contains_key(key) {
            Arc::make_mut(&mut self.parts[part]).remove(key);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stays_as_it_was_and_shares_what_did_not_change() {
        let mut map = Shards::default();
        for number in 0..10_000 {
            map.insert(number, number);
        }
        let copy = map.clone();
        map.insert(7, 8);
        map.remove(&8);
        map.remove(&20_000);
        assert_eq!((map.get(&7), map.get(&8)), (Some(&8), None));
        assert_eq!((copy.get(&7), copy.get(&8)), (Some(&7), Some(&8)));
        assert_eq!((map.values().count(), copy.iter().count()), (9_999, 10_000));
        let pairs = map.parts.iter().zip(&copy.parts);
        let shared = pairs.filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= PARTS - 2, "{shared} of {PARTS} shared");
        // Hashes are spread over all parts.
        assert!(copy.parts.iter().all(|part| part.len() < 200));
    }
}
