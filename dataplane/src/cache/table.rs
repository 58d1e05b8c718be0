//! A small hash table from tags to numbers, in one allocation of eight bytes a slot.
//!
//! A tag is 32 bits of a seeded hash. Two things may have the same, so a look-up says which of the numbers is meant; the
//! table itself never looks at what they stand for, neither when it grows nor when one goes.

/// Open addressing with linear probing; at most three quarters of the slots are used.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Tag and number; a power of two, or none.
    slots: Vec<(u32, u32)>,
    len: usize,
}

const FREE: u32 = u32::MAX;
const SLOTS_MIN: usize = 64;

impl Table {
    /// Room for so many before it grows.
    pub(super) fn with_room(entries: usize) -> Table {
        let mut table = Table::default();
        table.resize(slots_for(entries));
        table
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number under `tag` that `is` the one.
    pub(super) fn find(&self, tag: u32, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut slot = self.home(tag)?;
        loop {
            match self.slots[slot] {
                (_, FREE) => return None,
                (other, number) if other == tag && is(number) => return Some(number),
                _ => slot = self.after(slot),
            }
        }
    }

    /// Puts a number under `tag`, which does not have it yet. `number` < 2³² − 1.
    pub(super) fn insert(&mut self, tag: u32, number: u32) {
        debug_assert_ne!(number, FREE);
        if slots_for(self.len + 1) > self.slots.len() {
            self.resize(slots_for(self.len + 1));
        }
        self.len += 1;
        self.put(tag, number);
    }

    /// Takes a number from under `tag`. `false`: it was not there.
    pub(super) fn remove(&mut self, tag: u32, number: u32) -> bool {
        let Some(mut slot) = self.home(tag) else { return false };
        while self.slots[slot] != (tag, number) {
            if self.slots[slot].1 == FREE {
                return false;
            }
            slot = self.after(slot);
        }
        self.len -= 1;
        // What comes behind moves up, unless that would be before its own place.
        let mut next = self.after(slot);
        while self.slots[next].1 != FREE {
            let from_home = self.distance(self.slots[next].0, next);
            let from_gap = next.wrapping_sub(slot) & (self.slots.len() - 1);
            if from_home >= from_gap {
                self.slots[slot] = self.slots[next];
                slot = next;
            }
            next = self.after(next);
        }
        self.slots[slot] = (0, FREE);
        true
    }

    fn put(&mut self, tag: u32, number: u32) {
        let mut slot = tag as usize & (self.slots.len() - 1);
        while self.slots[slot].1 != FREE {
            slot = self.after(slot);
        }
        self.slots[slot] = (tag, number);
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![(0, FREE); slots]);
        for (tag, number) in old.into_iter().filter(|(_, number)| *number != FREE) {
            self.put(tag, number);
        }
    }

    fn home(&self, tag: u32) -> Option<usize> {
        (!self.slots.is_empty()).then(|| tag as usize & (self.slots.len() - 1))
    }

    fn after(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }

    /// How far `slot` is behind the first place of `tag`.
    fn distance(&self, tag: u32, slot: usize) -> usize {
        slot.wrapping_sub(tag as usize) & (self.slots.len() - 1)
    }
}

fn slots_for(entries: usize) -> usize {
    (entries + entries.div_ceil(3)).next_power_of_two().max(SLOTS_MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_pairs(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..40, 0_u32..4), 1..400),
            spread in prop::sample::select(vec![1_u32, 64, 0x0101_0101]),
        ) {
            let mut table = Table::default();
            let mut model = BTreeSet::new();
            for (insert, tag, number) in steps {
                let tag = tag.wrapping_mul(spread);
                if !insert {
                    prop_assert_eq!(table.remove(tag, number), model.remove(&(tag, number)));
                } else if model.insert((tag, number)) {
                    table.insert(tag, number);
                }
                prop_assert_eq!(table.len(), model.len());
                for tag in (0..40_u32).map(|tag| tag.wrapping_mul(spread)) {
                    for number in 0..4 {
                        let found = table.find(tag, |other| other == number);
                        prop_assert_eq!(found.is_some(), model.contains(&(tag, number)));
                    }
                }
            }
        }
    }

    #[test]
    fn it_grows_at_three_quarters() {
        let mut table = Table::with_room(96);
        assert_eq!(table.slots.len(), 128);
        (0..96).for_each(|number| table.insert(number * 7, number));
        assert_eq!(table.slots.len(), 128);
        table.insert(1, 96);
        assert_eq!(table.slots.len(), 256);
        assert!((0..96).all(|number| table.find(number * 7, |other| other == number).is_some()));
    }
}
