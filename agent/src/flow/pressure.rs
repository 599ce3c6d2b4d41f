//! What to give up first when there is more than fits.

use nodescope_ebpf::HopKey;

use super::tracker::Tracker;

impl Tracker {
    /// Up to `most` records that have not changed since `before_ns`, the idlest first.
    pub fn idlest_records(&self, most: usize, before_ns: u64) -> Vec<HopKey> {
        let idle = self
            .known
            .iter()
            .filter(|(_, known)| known.changed_ns < before_ns)
            .map(|(key, known)| ((known.changed_ns, known.record.first_ns), *key));
        smallest(idle.collect(), most)
    }

    /// Up to `most` connections, the idlest first.
    pub fn idlest_connections(&self, most: usize) -> Vec<u64> {
        let all = self
            .connections
            .values()
            .map(|connection| ((connection.changed_ns, connection.first_ns), connection.id));
        smallest(all.collect(), most)
    }

    /// Whether a record has been seen.
    pub fn knows(&self, key: &HopKey) -> bool {
        self.known.contains_key(key)
    }

    /// Records of a connection that are in the kernel's table, as far as is known.
    pub fn records_of(&self, id: u64) -> Vec<HopKey> {
        let hops = self.connections.get(&id).into_iter().flat_map(|c| &c.hops);
        hops.map(|hop| hop.key)
            .filter(|key| {
                let known = self.known.get(key);
                known.is_some_and(|known| known.connection == id)
            })
            .collect()
    }

    /// Gives back the memory that a flood took.
    pub fn slim(&mut self) {
        /// What is not worth the work.
        const SMALL: usize = 4096;
        let room = self.known.len().max(SMALL) * 2;
        if self.known.capacity() > room * 4 {
            self.known.shrink_to(room);
        }
        let room = self.connections.len().max(SMALL) * 2;
        if self.connections.capacity() > room * 4 {
            self.connections.shrink_to(room);
            self.by_conversation.shrink_to(room);
            self.unopened.shrink_to(room);
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
