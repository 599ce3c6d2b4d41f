//! Values that many objects have in common, each kept once.

use std::hash::Hash;
use std::sync::Arc;

use std::collections::HashSet;

/// As few values are not worth a sweep.
const FEW: usize = 256;

/// Values by content. Those that nobody else has are forgotten when they have become many.
#[derive(Debug)]
pub(super) struct Interner<T: ?Sized> {
    known: HashSet<Arc<T>, ahash::RandomState>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self {
            known: HashSet::default(),
            sweep_at: FEW,
        }
    }
}

impl<T: ?Sized + Hash + Eq> Interner<T> {
    /// The one kept of those equal to this.
    pub(super) fn one(&mut self, value: &Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(value) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = FEW.max(self.known.len() * 2);
        }
        self.known.insert(value.clone());
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_forgotten_with_their_last_owner() {
        let mut interner = Interner::<str>::default();
        let kept = interner.one(&"node-0".into());
        assert!(Arc::ptr_eq(&kept, &interner.one(&"node-0".into())));
        for number in 0..10 * FEW {
            interner.one(&number.to_string().into());
        }
        assert!(interner.known.len() <= FEW, "{}", interner.known.len());
        assert!(Arc::ptr_eq(&kept, &interner.one(&"node-0".into())));
    }
}
