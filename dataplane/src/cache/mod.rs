//! What a core remembers: bounded, and dropped in the order in which it was last of use.
//!
//! Two generations stand in for an exact order: what was used since the last turn is in the young one. When
//! that is full it becomes the old one, and what is in neither is gone.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// A bounded map. Weights are in whatever unit its bound is.
pub struct Generations<K, V> {
    young: HashMap<K, Weighed<V>>,
    old: HashMap<K, Weighed<V>>,
    young_weight: usize,
    weight_max: usize,
}

struct Weighed<V> {
    value: V,
    weight: usize,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    /// A map of at most `weight_max`, of which each generation may have half.
    pub fn new(weight_max: usize) -> Generations<K, V> {
        Generations { young: HashMap::new(), old: HashMap::new(), young_weight: 0, weight_max }
    }

    /// What is remembered of `key`.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // Two look-ups, because a borrow that is returned from one arm would last through the other.
        if !self.young.contains_key(key) {
            let (key, found) = self.old.remove_entry(key)?;
            self.insert(key, found.value, found.weight);
        }
        self.young.get(key).map(|found| &found.value)
    }

    /// Remembers a value; one that is heavier than a generation is not kept.
    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        let half = self.weight_max / 2;
        if weight > half {
            return;
        }
        if self.young_weight + weight > half {
            self.old = std::mem::take(&mut self.young);
            self.young_weight = 0;
        }
        self.young_weight += weight;
        self.young.insert(key, Weighed { value, weight });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.young_weight = 0;
    }

    /// Forgets `key`.
    pub fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(gone) = self.young.remove(key) {
            self.young_weight -= gone.weight;
        }
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let mut map = Generations::new(8);
        for key in 0..100 {
            map.insert(key, key, 1);
            assert_eq!(map.get(&0), Some(&0), "{key}");
            assert!(map.young.len() + map.old.len() <= 8);
        }
        assert_eq!(map.get(&1), None);
        map.remove(&0);
        assert_eq!(map.get(&0), None);
        map.insert(7, 7, 5);
        assert_eq!(map.get(&7), None, "heavier than a generation");
    }
}
