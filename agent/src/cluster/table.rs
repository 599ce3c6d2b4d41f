//! The objects of one watch, as last told.

use ahash::RandomState;
use hashbrown::HashTable;

use super::trim::Named;

/// What a watch tells of one kind.
#[derive(Clone, Debug)]
pub(super) enum Change<T> {
    /// A full list begins.
    Begin,
    /// An object of that list.
    Listed(T),
    /// The list is complete: what is not in it is gone.
    Complete,
    /// An object was added or changed.
    Applied(T),
    /// An object was deleted.
    Deleted(T),
}

/// What a change did to a table.
#[derive(Debug)]
pub(super) struct Done<T> {
    /// Objects that are gone or were replaced.
    pub(super) gone: Vec<T>,
    /// The object as it is now, and whether a list told of it; none when nothing is new.
    pub(super) current: Option<(T, bool)>,
}

impl<T> Done<T> {
    fn gone(gone: Vec<T>) -> Self {
        Self {
            gone,
            current: None,
        }
    }
}

/// An object and the last list that showed it.
#[derive(Debug)]
struct Slot<T> {
    object: T,
    list: u32,
}

/// Objects of one watch by name; the name is kept in the object alone.
#[derive(Debug)]
pub(super) struct Table<T> {
    objects: HashTable<Slot<T>>,
    hasher: RandomState,
    /// The number of the list under way, or of the last one.
    list: u32,
    /// Whether there was a full list.
    pub(super) listed: bool,
    /// Whether anything changed since somebody set this to false.
    pub(super) changed: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            objects: HashTable::new(),
            hasher: RandomState::new(),
            list: 0,
            listed: false,
            changed: false,
        }
    }
}

impl<T: Named + PartialEq + Clone> Table<T> {
    /// Takes a change in.
    pub(super) fn apply(&mut self, change: Change<T>) -> Done<T> {
        match change {
            Change::Begin => {
                self.list = self.list.wrapping_add(1);
                Done::gone(Vec::new())
            }
            Change::Listed(object) => self.insert(object, true),
            Change::Applied(object) => self.insert(object, false),
            Change::Deleted(object) => {
                let hash = self.hasher.hash_one(object.key());
                let found = |slot: &Slot<T>| slot.object.key() == object.key();
                let Ok(entry) = self.objects.find_entry(hash, found) else {
                    return Done::gone(Vec::new());
                };
                self.changed = true;
                Done::gone(vec![entry.remove().0.object])
            }
            Change::Complete => {
                let list = self.list;
                let gone = self.objects.extract_if(|slot| slot.list != list);
                let gone: Vec<T> = gone.map(|slot| slot.object).collect();
                self.changed |= !gone.is_empty() || !self.listed;
                self.listed = true;
                Done::gone(gone)
            }
        }
    }

    fn insert(&mut self, object: T, listed: bool) -> Done<T> {
        // What came beside a list is not in it.
        let list = if listed {
            self.list
        } else {
            self.list.wrapping_sub(1)
        };
        let hash = self.hasher.hash_one(object.key());
        let found = |slot: &Slot<T>| slot.object.key() == object.key();
        let mut gone = Vec::new();
        if let Some(slot) = self.objects.find_mut(hash, found) {
            if listed {
                slot.list = list;
            }
            if slot.object == object {
                return Done::gone(gone);
            }
            gone.push(std::mem::replace(&mut slot.object, object.clone()));
        } else {
            let slot = Slot {
                object: object.clone(),
                list,
            };
            let hasher = &self.hasher;
            self.objects
                .insert_unique(hash, slot, |slot| hasher.hash_one(slot.object.key()));
        }
        self.changed = true;
        Done {
            gone,
            current: Some((object, listed)),
        }
    }
}

impl<T> Table<T> {
    /// All objects.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.iter().map(|slot| &slot.object)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }
}
