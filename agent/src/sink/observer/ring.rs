//! The newest items of an endless sequence, each with its number.

use std::collections::VecDeque;

/// A bounded queue that forgets the oldest. Items are numbered from 0 in order of arrival, so
/// that a reader can tell how many it missed.
#[derive(Debug)]
pub struct Ring<T> {
    items: VecDeque<T>,
    capacity: usize,
    /// Number that the next item gets, which is also how many there ever were.
    next: u64,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<T> {
    /// Items that were forgotten before they could be read.
    pub lost: u64,
    /// Items, oldest first.
    pub items: Vec<T>,
    /// Number of the item after these.
    pub next: u64,
}

impl<T: Clone> Ring<T> {
    /// An empty ring of at least one place.
    pub fn new(capacity: usize) -> Self {
        Self {
            items: VecDeque::new(),
            capacity: capacity.max(1),
            next: 0,
        }
    }

    /// Adds an item; the oldest goes when the ring is full.
    pub fn push(&mut self, item: T) {
        if self.items.len() == self.capacity {
            self.items.pop_front();
        }
        self.items.push_back(item);
        self.next += 1;
    }

    /// Items that are kept now.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Items that can be kept.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many there ever were; the number of the next item.
    pub fn seen(&self) -> u64 {
        self.next
    }

    /// The kept items, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.items.iter()
    }

    /// Up to `limit` items from number `from` on.
    pub fn read(&self, from: u64, limit: usize) -> Batch<T> {
        let oldest = self.next - self.items.len() as u64;
        let start = from.clamp(oldest, self.next);
        let skip = usize::try_from(start - oldest).unwrap_or(usize::MAX);
        let items: Vec<T> = self.items.iter().skip(skip).take(limit).cloned().collect();
        Batch {
            lost: start.saturating_sub(from),
            next: start + items.len() as u64,
            items,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: usize, items: u64) -> Ring<u64> {
        let mut ring = Ring::new(capacity);
        (0..items).for_each(|item| ring.push(item));
        ring
    }

    #[test]
    fn keeps_the_newest_and_counts_all() {
        let ring = ring(3, 5);
        assert_eq!(ring.iter().copied().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!((ring.len(), ring.capacity(), ring.seen()), (3, 3, 5));
    }

    #[test]
    fn reads_on_from_a_number_in_portions() {
        let ring = ring(8, 5);
        assert_eq!(
            ring.read(1, 2),
            Batch {
                lost: 0,
                items: vec![1, 2],
                next: 3
            }
        );
        assert_eq!(
            ring.read(3, 9),
            Batch {
                lost: 0,
                items: vec![3, 4],
                next: 5
            }
        );
        assert_eq!(
            ring.read(5, 9),
            Batch {
                lost: 0,
                items: vec![],
                next: 5
            }
        );
    }

    #[test]
    fn tells_a_slow_reader_how_many_it_missed() {
        assert_eq!(
            ring(3, 10).read(4, 9),
            Batch {
                lost: 3,
                items: vec![7, 8, 9],
                next: 10
            }
        );
    }

    #[test]
    fn a_ring_of_no_places_has_one() {
        assert_eq!(
            ring(0, 2).read(0, 9),
            Batch {
                lost: 1,
                items: vec![1],
                next: 2
            }
        );
    }
}
