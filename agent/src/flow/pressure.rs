//! What to give up first when there is more than fits.

use nodescope_ebpf::HopKey;

use super::store::{At, coarse};
use super::tracker::Tracker;

impl Tracker {
    /// Up to `most` records that have not changed since `before_ns`, the idlest first.
    pub fn idlest_records(&self, most: usize, before_ns: u64) -> Vec<HopKey> {
        let before = coarse(before_ns);
        let hops = self.store.hops.iter();
        let idle = hops
            .filter(|(_, hop)| hop.here && hop.changed < before)
            .map(|(at, hop)| ((hop.changed, hop.first_ns), at as At));
        let idlest = smallest(idle.collect(), most).into_iter();
        idlest.map(|at| self.store.key(at)).collect()
    }

    /// Up to `most` connections, the idlest first.
    pub fn idlest_connections(&self, most: usize) -> Vec<u64> {
        let nodes = self.store.nodes.iter();
        let all = nodes.map(|(_, node)| ((node.changed_ns, node.first_ns), node.id));
        smallest(all.collect(), most)
    }

    /// Whether a record has been seen.
    pub fn knows(&self, key: &HopKey) -> bool {
        self.store.hop(key).is_some()
    }

    /// Records that a connection may have in the kernel's table: of every hop that it was seen at,
    /// but for those that another connection has now.
    pub fn records_of(&self, id: u64) -> Vec<HopKey> {
        let at = self.store.by_id(id).into_iter();
        let keys = at.flat_map(|at| self.store.hops_of(at));
        let keys = keys.map(|(at, hop)| (at, hop.here, self.store.key(at)));
        keys.filter(|(_, here, key)| *here || self.store.hop(key).is_none())
            .map(|(_, _, key)| key)
            .collect()
    }

    /// Gives back the memory that a flood took.
    pub fn slim(&mut self) {
        self.store.slim();
        if self.unopened.is_empty() {
            self.unopened.shrink_to(4096);
        }
    }
}

/// The `most` items of the smallest rank, in its order.
fn smallest<R: Ord + Copy, T>(mut items: Vec<(R, T)>, most: usize) -> Vec<T> {
    if most == 0 {
        return Vec::new();
    }
    if items.len() > most {
        items.select_nth_unstable_by_key(most - 1, |(rank, _)| *rank);
        items.truncate(most);
    }
    items.sort_unstable_by_key(|(rank, _)| *rank);
    items.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::smallest;

    #[test]
    fn the_idlest_come_first() {
        let items: Vec<(u64, u64)> = (0..100).map(|at| ((at * 37) % 100, at)).collect();
        let chosen = smallest(items, 3);
        assert_eq!(chosen, [0, 73, 46]);
        assert_eq!(smallest(vec![(2, 'b'), (1, 'a')], 5), ['a', 'b']);
        assert!(smallest(vec![(1, 1)], 0).is_empty());
    }
}
